// SPDX-License-Identifier: GPL-2.0-only
/*
 * Handlers beside the module's own, for tests of registering.
 *
 *	/proc/mkmsg/hooks	write "on TYPE HOOK\n", "off TYPE HOOK\n": register one of
 *				MKMSG_NR_HOOKS functions for a type, NULL for any other
 *				HOOK; the error of it is the error of write(2).
 *				"churn TYPE HOOK COUNT\n": on and off, so often;
 *				"busy MS\n": each call takes so long.
 *				Read "TYPE HOOK ON CALLS OTHERS LATE BUSY SUBTYPE LEN":
 *				OTHERS were calls for another type, LATE those that
 *				began or ended after the function was off, BUSY are
 *				at work, SUBTYPE and LEN those of the last one.
 */
#include <linux/atomic.h>
#include <linux/delay.h>
#include <linux/errno.h>
#include <linux/kernel.h>
#include <linux/mutex.h>
#include <linux/sched.h>
#include <linux/sched/signal.h>
#include <linux/string.h>

#include "mkmsg.h"

#define NR_RECORDS	16

struct record {
	bool used, on;
	u32 type, hook;
	atomic_t calls, others, late, busy;
	u32 subtype, len;
};

static DEFINE_MUTEX(lock);		/* which records there are */
static struct record records[NR_RECORDS];
static u32 busy_ms;

void mkmsg_hooked(void *ctx, u32 hook, u32 type, u32 subtype, u32 len)
{
	struct record *record = ctx;

	atomic_inc(&record->busy);
	if (!READ_ONCE(record->on))
		atomic_inc(&record->late);
	if (record->type != type || record->hook != hook)
		atomic_inc(&record->others);
	WRITE_ONCE(record->subtype, subtype);
	WRITE_ONCE(record->len, len);
	atomic_inc(&record->calls);
	/* Some generations call from an interrupt. */
	mdelay(READ_ONCE(busy_ms));
	if (!READ_ONCE(record->on))
		atomic_inc(&record->late);
	atomic_dec(&record->busy);
}

static struct record *find(u32 type, u32 hook, bool make)
{
	struct record *record;

	for (record = records; record < records + NR_RECORDS; record++) {
		if (record->used && record->type == type && record->hook == hook)
			return record;
		if (!record->used && make) {
			*record = (struct record) { .used = true, .type = type, .hook = hook };
			return record;
		}
	}
	return NULL;
}

static int turn_on(u32 type, u32 hook)
{
	struct record *record = find(type, hook, true);
	bool was;
	int err;

	if (!record)
		return -EXFULL;
	was = record->on;
	WRITE_ONCE(record->on, true);
	err = mkmsg_api.hook(type, hook, record);
	if (err)
		WRITE_ONCE(record->on, was);
	return err;
}

static int turn_off(u32 type, u32 hook)
{
	struct record *record = find(type, hook, false);
	int err = hook < MKMSG_NR_HOOKS ? mkmsg_api.unhook(type, hook) : -EBADMSG;

	if (!err && record)
		WRITE_ONCE(record->on, false);
	return err;
}

static int churn(u32 type, u32 hook, u32 count)
{
	int err = 0;

	while (count-- && !err && !fatal_signal_pending(current)) {
		err = turn_on(type, hook);
		cond_resched();
		if (!err)
			err = turn_off(type, hook);
		cond_resched();
	}
	return err;
}

void mkmsg_unhook_all(void)
{
	struct record *record;

	for (record = records; record < records + NR_RECORDS; record++)
		if (record->on)
			turn_off(record->type, record->hook);
}

static ssize_t hooks_write(struct file *file, const char __user *buf, size_t count, loff_t *pos)
{
	u32 type = 0, hook = 0, times = 0, ms;
	char command[80], what[8];
	int words, err = mkmsg_command(command, sizeof(command), buf, count);

	if (err)
		return err;
	if (sscanf(command, "busy %u", &ms) == 1) {
		WRITE_ONCE(busy_ms, ms);
		return count;
	}
	words = sscanf(command, "%7s %i %u %u", what, &type, &hook, &times);
	if (words < 3)
		return -EBADMSG;

	mutex_lock(&lock);
	if (!strcmp(what, "on"))
		err = turn_on(type, hook);
	else if (!strcmp(what, "off"))
		err = turn_off(type, hook);
	else if (!strcmp(what, "churn") && words == 4)
		err = churn(type, hook, times);
	else
		err = -EBADMSG;
	mutex_unlock(&lock);
	return err < 0 ? err : count;
}

static int hooks_show(struct seq_file *seq, void *v)
{
	struct record *record;

	for (record = records; record < records + NR_RECORDS && record->used; record++)
		seq_printf(seq, "%#x %u %d %d %d %d %d %#x %u\n", record->type, record->hook, record->on,
			   atomic_read(&record->calls), atomic_read(&record->others),
			   atomic_read(&record->late), atomic_read(&record->busy),
			   READ_ONCE(record->subtype), READ_ONCE(record->len));
	return 0;
}

static int hooks_open(struct inode *inode, struct file *file)
{
	return single_open(file, hooks_show, NULL);
}

const struct proc_ops mkmsg_hooks_ops = {
	.proc_open = hooks_open,
	.proc_read = seq_read,
	.proc_write = hooks_write,
	.proc_lseek = seq_lseek,
	.proc_release = single_release,
};
