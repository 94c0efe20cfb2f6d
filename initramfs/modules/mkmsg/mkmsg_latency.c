// SPDX-License-Identifier: GPL-2.0-only
/*
 * How long a message and its answer take, and what a kernel has for its own CPUs.
 *
 *	/proc/mkmsg/latency	write "ping DEST SIZE COUNT\n": messages, one by one, each
 *				answered by the other side's mkmsg; or
 *				"call CPU SIZE COUNT\n": calls of a function there that
 *				copies SIZE bytes. Read: ns of each, one a line; what
 *				was not answered in LIMIT_S is missing.
 */
#include <linux/completion.h>
#include <linux/errno.h>
#include <linux/jiffies.h>
#include <linux/kernel.h>
#include <linux/mutex.h>
#include <linux/sched/signal.h>
#include <linux/smp.h>
#include <linux/string.h>
#include <linux/timekeeping.h>

#include "mkmsg.h"

#define MAX_TIMES	2000
#define MAX_SIZE	256
#define LIMIT_S		5

static DEFINE_MUTEX(lock);		/* what follows; one at a time */
static u32 times[MAX_TIMES];
static u32 nr_times;
static u8 from[MAX_SIZE], to[MAX_SIZE];
static u32 size;

static DECLARE_COMPLETION(answered);

void mkmsg_ping_receive(u32 type, u32 subtype, int sender, const void *payload, u32 len)
{
	int dest;

	if (!mkmsg_api.make_echo(&type, &subtype)) {
		complete(&answered);
		return;
	}
	dest = mkmsg_api.answer_to(sender);
	if (dest >= 0)
		mkmsg_api.send(dest, type, subtype, payload, len);
}

static int ping(int dest)
{
	int err;

	reinit_completion(&answered);
	err = mkmsg_api.send(dest, MKMSG_PING, 0, from, size);
	if (err)
		return err;
	return wait_for_completion_timeout(&answered, LIMIT_S * HZ) ? 0 : -ETIMEDOUT;
}

static void copy_bytes(void *unused)
{
	memcpy(to, from, size);
}

static int call(int cpu)
{
	return smp_call_function_single(cpu, copy_bytes, NULL, 1);
}

static int measure(int (*what)(int), int where, u32 count)
{
	u64 begin;
	int err = 0;

	for (nr_times = 0; nr_times < count && !fatal_signal_pending(current);) {
		begin = ktime_get_ns();
		err = what(where);
		if (err)
			break;
		times[nr_times++] = ktime_get_ns() - begin;
	}
	return err;
}

static ssize_t latency_write(struct file *file, const char __user *buf, size_t count, loff_t *pos)
{
	char command[80], what[8];
	u32 bytes, number;
	int where, err = mkmsg_command(command, sizeof(command), buf, count);

	if (err)
		return err;
	if (sscanf(command, "%7s %d %u %u", what, &where, &bytes, &number) != 4 ||
	    bytes > MAX_SIZE || number > MAX_TIMES)
		return -EBADMSG;

	mutex_lock(&lock);
	size = bytes;
	if (!strcmp(what, "ping"))
		err = measure(ping, where, number);
	else if (!strcmp(what, "call"))
		err = measure(call, where, number);
	else
		err = -EBADMSG;
	mutex_unlock(&lock);
	return err < 0 ? err : count;
}

static int latency_show(struct seq_file *seq, void *v)
{
	u32 at;

	mutex_lock(&lock);
	for (at = 0; at < nr_times; at++)
		seq_printf(seq, "%u\n", times[at]);
	mutex_unlock(&lock);
	return 0;
}

static int latency_open(struct inode *inode, struct file *file)
{
	return single_open(file, latency_show, NULL);
}

const struct proc_ops mkmsg_latency_ops = {
	.proc_open = latency_open,
	.proc_read = seq_read,
	.proc_write = latency_write,
	.proc_lseek = seq_lseek,
	.proc_release = single_release,
};
