// SPDX-License-Identifier: GPL-2.0-only
/*
 * mkmsg: messages between kernels, for a test in user space.
 *
 *	/proc/mkmsg/send	write "DEST TYPE[:SUBTYPE] [HEX]\n": one message; the
 *				error of the send is the error of write(2)
 *	/proc/mkmsg/received	"dropped=N", then per message
 *				"SEQ SENDER TYPE SUBTYPE LEN HEX", oldest first,
 *				"-" where there is no payload; write "clear\n"
 *	/proc/mkmsg/echo	1: answer each message to its sender
 *	/proc/mkmsg/stats	counters
 *	/proc/mkmsg/flood	many messages at the kernel's speed, and what came of
 *				them: mkmsg_flood.c
 *	/proc/mkmsg/latency	times of messages and calls: mkmsg_latency.c
 *	/proc/mkmsg/hooks	further handlers: mkmsg_hooks.c
 *
 * The last NR_KEPT messages are kept; SEQ counts all.
 */
#include <linux/ctype.h>
#include <linux/hex.h>
#include <linux/kernel.h>
#include <linux/minmax.h>
#include <linux/module.h>
#include <linux/proc_fs.h>
#include <linux/seq_file.h>
#include <linux/slab.h>
#include <linux/spinlock.h>
#include <linux/string.h>
#include <linux/uaccess.h>
#include <linux/vmalloc.h>
#include <linux/workqueue.h>

#include "mkmsg.h"

#define NR_KEPT		256
#define KEPT_PAYLOAD	4096
#define MAX_REQUEST	(2 * MKMSG_MAX_PAYLOAD + 64)

struct message {
	u64 seq;
	int sender;
	u32 type;
	u32 subtype;
	u32 len;		/* as received; at most KEPT_PAYLOAD bytes are kept */
	u8 payload[KEPT_PAYLOAD];
};

struct counters {
	u64 sent, send_errors;
	u64 received, dropped;
	u64 echoed, echo_errors;
};

static DEFINE_SPINLOCK(lock);		/* all of what follows */
static struct message *ring;
static u64 next_seq;			/* of the next message */
static u64 first_kept;			/* cleared or overwritten below this */
static u64 next_echo;
static bool echo_on;
static struct counters counters;

static struct proc_dir_entry *directory;

static void echo_work(struct work_struct *work);
static DECLARE_WORK(echo_worker, echo_work);

void mkmsg_receive(u32 type, u32 subtype, int sender, const void *payload, u32 len)
{
	struct message *message;
	unsigned long flags;
	bool echo;

	if (type == MKMSG_FLOOD)
		return mkmsg_flood_receive(payload, len);
	if ((type & 0xffff) == MKMSG_PING)
		return mkmsg_ping_receive(type, subtype, sender, payload, len);

	spin_lock_irqsave(&lock, flags);
	message = &ring[next_seq % NR_KEPT];
	message->seq = next_seq++;
	message->sender = sender;
	message->type = type;
	message->subtype = subtype;
	message->len = len;
	if (len)
		memcpy(message->payload, payload, min_t(u32, len, KEPT_PAYLOAD));
	counters.received++;
	if (next_seq - first_kept > NR_KEPT) {
		first_kept++;
		counters.dropped++;
	}
	echo = echo_on;
	spin_unlock_irqrestore(&lock, flags);

	if (echo)
		schedule_work(&echo_worker);
}

/* The first message from *seq on that is still kept; *seq becomes its number. */
static bool copy_message(u64 *seq, u64 end, struct message *copy)
{
	unsigned long flags;
	bool found;

	spin_lock_irqsave(&lock, flags);
	*seq = max(*seq, first_kept);
	found = *seq < min(end, next_seq);
	if (found) {
		const struct message *message = &ring[*seq % NR_KEPT];

		memcpy(copy, message, offsetof(struct message, payload) +
		       min_t(u32, message->len, KEPT_PAYLOAD));
	}
	spin_unlock_irqrestore(&lock, flags);
	return found;
}

static void echo_work(struct work_struct *work)
{
	struct message *copy = kmalloc(sizeof(*copy), GFP_KERNEL);
	int dest, err;

	if (!copy)
		return;
	while (READ_ONCE(echo_on) && copy_message(&next_echo, U64_MAX, copy)) {
		next_echo++;
		if (!mkmsg_api.make_echo(&copy->type, &copy->subtype))
			continue;
		dest = mkmsg_api.answer_to(copy->sender);
		err = dest < 0 ? dest :
			mkmsg_api.send(dest, copy->type, copy->subtype, copy->payload,
				       min_t(u32, copy->len, KEPT_PAYLOAD));
		spin_lock_irq(&lock);
		if (err)
			counters.echo_errors++;
		else
			counters.echoed++;
		spin_unlock_irq(&lock);
	}
	kfree(copy);
}

int mkmsg_command(char *command, size_t room, const char __user *buf, size_t count)
{
	if (count >= room)
		return -EINVAL;
	if (copy_from_user(command, buf, count))
		return -EFAULT;
	command[count] = 0;
	strim(command);
	return 0;
}

/* ---- send ---- */

static int send_request(char *request)
{
	char *dest_text, *type_text, *subtype_text, *hex;
	u32 type, subtype = 0, len;
	int dest, err;

	request = strim(request);
	dest_text = strsep(&request, " ");
	type_text = strsep(&request, " ");
	hex = request ? strim(request) : "";
	if (!dest_text || !type_text)
		return -EBADMSG;
	subtype_text = type_text;
	type_text = strsep(&subtype_text, ":");
	if (kstrtoint(dest_text, 0, &dest) || kstrtou32(type_text, 0, &type) ||
	    (subtype_text && kstrtou32(subtype_text, 0, &subtype)))
		return -EBADMSG;

	if (!strcmp(hex, "-"))
		hex = "";
	len = strlen(hex) / 2;
	/* In place: each byte is written after its two digits were read. */
	if (strlen(hex) % 2 || hex2bin((u8 *)hex, hex, len))
		return -EBADMSG;

	err = mkmsg_api.send(dest, type, subtype, len ? hex : NULL, len);
	spin_lock_irq(&lock);
	if (err)
		counters.send_errors++;
	else
		counters.sent++;
	spin_unlock_irq(&lock);
	return err;
}

static ssize_t send_write(struct file *file, const char __user *buf, size_t count, loff_t *pos)
{
	char *request;
	int err;

	if (count > MAX_REQUEST)
		return -E2BIG;
	request = memdup_user_nul(buf, count);
	if (IS_ERR(request))
		return PTR_ERR(request);
	err = send_request(request);
	kfree(request);
	return err < 0 ? err : count;
}

static const struct proc_ops send_ops = {
	.proc_write = send_write,
};

/* ---- received ---- */

struct reader {
	u64 seq;		/* of the message in copy */
	u64 end;		/* what arrives while we read is for the next reader */
	u64 dropped;
	struct message copy;
	char hex[2 * KEPT_PAYLOAD + 1];
};

static void *received_at(struct reader *reader, loff_t pos)
{
	if (!pos)
		return SEQ_START_TOKEN;
	return copy_message(&reader->seq, reader->end, &reader->copy) ? reader : NULL;
}

static void *received_start(struct seq_file *seq, loff_t *pos)
{
	struct reader *reader = seq->private;

	if (!*pos) {
		spin_lock_irq(&lock);
		reader->seq = first_kept;
		reader->end = next_seq;
		reader->dropped = counters.dropped;
		spin_unlock_irq(&lock);
	}
	return received_at(reader, *pos);
}

static void *received_next(struct seq_file *seq, void *v, loff_t *pos)
{
	struct reader *reader = seq->private;

	++*pos;
	if (v != SEQ_START_TOKEN)
		reader->seq++;
	return received_at(reader, *pos);
}

static void received_stop(struct seq_file *seq, void *v)
{
}

static int received_show(struct seq_file *seq, void *v)
{
	struct reader *reader = seq->private;
	const struct message *message = &reader->copy;

	if (v == SEQ_START_TOKEN) {
		seq_printf(seq, "dropped=%llu\n", reader->dropped);
		return 0;
	}
	*bin2hex(reader->hex, message->payload, min_t(u32, message->len, KEPT_PAYLOAD)) = 0;
	seq_printf(seq, "%llu %d %#x %#x %u %s\n", message->seq, message->sender,
		   message->type, message->subtype, message->len,
		   message->len ? reader->hex : "-");
	return 0;
}

static const struct seq_operations received_seq_ops = {
	.start = received_start,
	.next = received_next,
	.stop = received_stop,
	.show = received_show,
};

static int received_open(struct inode *inode, struct file *file)
{
	return seq_open_private(file, &received_seq_ops, sizeof(struct reader));
}

static ssize_t received_write(struct file *file, const char __user *buf, size_t count, loff_t *pos)
{
	char command[16];
	int err = mkmsg_command(command, sizeof(command), buf, count);

	if (err)
		return err;
	if (strcmp(command, "clear"))
		return -EINVAL;
	spin_lock_irq(&lock);
	first_kept = next_seq;
	counters.dropped = 0;
	spin_unlock_irq(&lock);
	return count;
}

static const struct proc_ops received_ops = {
	.proc_open = received_open,
	.proc_read = seq_read,
	.proc_write = received_write,
	.proc_lseek = seq_lseek,
	.proc_release = seq_release_private,
};

/* ---- echo ---- */

static int echo_show(struct seq_file *seq, void *v)
{
	seq_printf(seq, "%d\n", READ_ONCE(echo_on));
	return 0;
}

static int echo_open(struct inode *inode, struct file *file)
{
	return single_open(file, echo_show, NULL);
}

static ssize_t echo_write(struct file *file, const char __user *buf, size_t count, loff_t *pos)
{
	char command[16];
	bool on;
	int err = mkmsg_command(command, sizeof(command), buf, count);

	if (!err)
		err = kstrtobool(command, &on);
	if (err)
		return err;

	/* What came before is not answered. */
	WRITE_ONCE(echo_on, false);
	cancel_work_sync(&echo_worker);
	spin_lock_irq(&lock);
	next_echo = next_seq;
	echo_on = on;
	spin_unlock_irq(&lock);
	return count;
}

static const struct proc_ops echo_ops = {
	.proc_open = echo_open,
	.proc_read = seq_read,
	.proc_write = echo_write,
	.proc_lseek = seq_lseek,
	.proc_release = single_release,
};

/* ---- stats ---- */

static int stats_show(struct seq_file *seq, void *v)
{
	struct counters now;

	spin_lock_irq(&lock);
	now = counters;
	spin_unlock_irq(&lock);
	seq_printf(seq, "api=%s\nself=%d\n", mkmsg_api.name, mkmsg_api.self());
	seq_printf(seq, "sent=%llu\nsend_errors=%llu\n", now.sent, now.send_errors);
	seq_printf(seq, "received=%llu\ndropped=%llu\n", now.received, now.dropped);
	seq_printf(seq, "echoed=%llu\necho_errors=%llu\n", now.echoed, now.echo_errors);
	if (mkmsg_api.show)
		mkmsg_api.show(seq);
	return 0;
}

static int __init mkmsg_init(void)
{
	int err = -ENOMEM;

	ring = vcalloc(NR_KEPT, sizeof(*ring));
	if (!ring)
		return -ENOMEM;
	directory = proc_mkdir("mkmsg", NULL);
	if (!directory ||
	    !proc_create("send", 0200, directory, &send_ops) ||
	    !proc_create("received", 0600, directory, &received_ops) ||
	    !proc_create("echo", 0600, directory, &echo_ops) ||
	    !proc_create("flood", 0600, directory, &mkmsg_flood_ops) ||
	    !proc_create("latency", 0600, directory, &mkmsg_latency_ops) ||
	    !proc_create("hooks", 0600, directory, &mkmsg_hooks_ops) ||
	    !proc_create_single("stats", 0400, directory, stats_show))
		goto out;
	err = mkmsg_api.start();
	if (!err)
		return 0;
out:
	proc_remove(directory);
	vfree(ring);
	return err;
}

static void __exit mkmsg_exit(void)
{
	/* No writer first, then no message, then no echo. */
	proc_remove(directory);
	mkmsg_unhook_all();
	mkmsg_api.stop();
	WRITE_ONCE(echo_on, false);
	cancel_work_sync(&echo_worker);
	vfree(ring);
}

module_init(mkmsg_init);
module_exit(mkmsg_exit);
MODULE_LICENSE("GPL");
MODULE_DESCRIPTION("Messages between kernels for a test in user space");
