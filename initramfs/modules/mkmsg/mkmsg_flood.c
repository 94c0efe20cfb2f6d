// SPDX-License-Identifier: GPL-2.0-only
/*
 * Many messages at the kernel's speed, numbered, so that the receiver sees what is
 * missing, doubled, late or torn.
 *
 *	/proc/mkmsg/flood	write "DEST COUNT SIZE TAG RETRY\n": send them, 8 bytes or
 *				more each; one that finds no room is tried again for
 *				RETRY ms. Write "clear\n". Read, for each of
 *				NR_TAGS that sent or came:
 *				"sent TAG TAKEN REFUSED NS"
 *				"got TAG COUNT MISSING BACK TORN NS"
 *
 * BACK counts numbers that are not beyond the one before; NS is the time from the
 * first to the last.
 */
#include <linux/delay.h>
#include <linux/errno.h>
#include <linux/jiffies.h>
#include <linux/kernel.h>
#include <linux/mutex.h>
#include <linux/sched.h>
#include <linux/sched/signal.h>
#include <linux/slab.h>
#include <linux/spinlock.h>
#include <linux/string.h>
#include <linux/timekeeping.h>
#include <linux/unaligned.h>

#include "mkmsg.h"

#define NR_TAGS		16
#define HEADER		8	/* tag, number */

struct sent {
	u64 taken, refused, ns;
};

struct got {
	u64 count, missing, back, torn;
	u32 next;
	u64 first_ns, last_ns;
};

static DEFINE_SPINLOCK(lock);		/* what follows */
static struct sent sent[NR_TAGS];
static struct got got[NR_TAGS];

static u8 filling(u32 tag, u32 number, u32 at)
{
	return tag * 31 + number + at;
}

static bool is_whole(const u8 *payload, u32 len, u32 tag, u32 number)
{
	u32 at;

	for (at = HEADER; at < len; at++)
		if (payload[at] != filling(tag, number, at))
			return false;
	return true;
}

void mkmsg_flood_receive(const void *payload, u32 len)
{
	u32 tag, number;
	unsigned long flags;
	struct got *one;

	if (len < HEADER)
		return;
	tag = get_unaligned_le32(payload);
	number = get_unaligned_le32(payload + 4);

	spin_lock_irqsave(&lock, flags);
	one = &got[tag % NR_TAGS];
	if (!one->count++)
		one->first_ns = ktime_get_ns();
	one->last_ns = ktime_get_ns();
	if (tag >= NR_TAGS || !is_whole(payload, len, tag, number)) {
		one->torn++;
	} else if (number < one->next) {
		one->back++;
	} else {
		one->missing += number - one->next;
		one->next = number + 1;
	}
	spin_unlock_irqrestore(&lock, flags);
}

static int send_one(int dest, const void *payload, u32 len, u32 retry_ms)
{
	unsigned long end = jiffies + msecs_to_jiffies(retry_ms);
	u32 tries = 0;
	int err;

	for (;;) {
		err = mkmsg_api.send(dest, MKMSG_FLOOD, 0, payload, len);
		if (err != -ENOSPC || time_after(jiffies, end) || fatal_signal_pending(current))
			return err;
		/* The receiver may need this CPU, or the computer below it. */
		if (++tries % 256)
			cpu_relax();
		else
			usleep_range(50, 100);
		cond_resched();
	}
}

static int flood(int dest, u32 count, u32 len, u32 tag, u32 retry_ms)
{
	u8 *payload = kmalloc(len, GFP_KERNEL);
	struct sent now = {};
	u64 begin;
	u32 number, at;
	int err = 0;

	if (!payload)
		return -ENOMEM;
	begin = ktime_get_ns();
	for (number = 0; number < count && !fatal_signal_pending(current); number++) {
		put_unaligned_le32(tag, payload);
		put_unaligned_le32(number, payload + 4);
		for (at = HEADER; at < len; at++)
			payload[at] = filling(tag, number, at);
		err = send_one(dest, payload, len, retry_ms);
		if (err)
			now.refused++;
		else
			now.taken++;
		cond_resched();
	}
	now.ns = ktime_get_ns() - begin;
	kfree(payload);

	spin_lock_irq(&lock);
	sent[tag].taken += now.taken;
	sent[tag].refused += now.refused;
	sent[tag].ns += now.ns;
	spin_unlock_irq(&lock);
	/* That some were refused is a result; that all were, an error. */
	return now.taken || !count ? 0 : err;
}

static ssize_t flood_write(struct file *file, const char __user *buf, size_t count, loff_t *pos)
{
	u32 messages, len, tag, retry_ms;
	char command[80];
	int dest, err = mkmsg_command(command, sizeof(command), buf, count);

	if (err)
		return err;
	if (!strcmp(command, "clear")) {
		spin_lock_irq(&lock);
		memset(sent, 0, sizeof(sent));
		memset(got, 0, sizeof(got));
		spin_unlock_irq(&lock);
		return count;
	}
	if (sscanf(command, "%d %u %u %u %u", &dest, &messages, &len, &tag, &retry_ms) != 5 ||
	    len < HEADER || len > MKMSG_MAX_PAYLOAD || tag >= NR_TAGS)
		return -EBADMSG;
	err = flood(dest, messages, len, tag, retry_ms);
	return err < 0 ? err : count;
}

static int flood_show(struct seq_file *seq, void *v)
{
	struct sent out;
	struct got in;
	u32 tag;

	for (tag = 0; tag < NR_TAGS; tag++) {
		spin_lock_irq(&lock);
		out = sent[tag];
		in = got[tag];
		spin_unlock_irq(&lock);
		if (out.taken || out.refused)
			seq_printf(seq, "sent %u %llu %llu %llu\n", tag, out.taken, out.refused, out.ns);
		if (in.count)
			seq_printf(seq, "got %u %llu %llu %llu %llu %llu\n", tag, in.count, in.missing,
				   in.back, in.torn, in.last_ns - in.first_ns);
	}
	return 0;
}

static int flood_open(struct inode *inode, struct file *file)
{
	return single_open(file, flood_show, NULL);
}

const struct proc_ops mkmsg_flood_ops = {
	.proc_open = flood_open,
	.proc_read = seq_read,
	.proc_write = flood_write,
	.proc_lseek = seq_lseek,
	.proc_release = single_release,
};
