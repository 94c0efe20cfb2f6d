// SPDX-License-Identifier: GPL-2.0-only
/*
 * mkfault: how a kernel fails that user space cannot make fail. Nothing loads it
 * but who asks for it.
 *
 *	echo COMMAND >/proc/mkfault; cat /proc/mkfault	(value=0x...)
 *
 *	null		a task reads from address 0
 *	bug		a task meets a BUG()
 *	stack		a task's stack overflows
 *	null-irq	an interrupt handler reads from address 0
 *	bug-irq		an interrupt handler meets a BUG()
 *	spin		this CPU never leaves a task any more
 *	spin-deaf	this CPU spins, with interrupts off
 *	spin-all	so does every CPU
 *	wbinvd		this CPU writes back its caches all the time
 *	call		call a function every 10 ms; value is the physical address
 *			of the pointer to it, for somebody outside to spoil
 */
#include <linux/io.h>
#include <linux/irq_work.h>
#include <linux/irqflags.h>
#include <linux/jiffies.h>
#include <linux/module.h>
#include <linux/preempt.h>
#include <linux/proc_fs.h>
#include <linux/seq_file.h>
#include <linux/slab.h>
#include <linux/smp.h>
#include <linux/timer.h>
#include <linux/uaccess.h>

#define DEEP	(1 << 20)	/* more than any stack has */

struct caller {
	void (*function)(void);
	struct timer_list timer;
};

static struct caller *caller;
static u64 result;

static void read_nothing(void)
{
	/* The compiler must not see that this is wrong. */
	int *nothing = NULL;

	OPTIMIZER_HIDE_VAR(nothing);
	(void)READ_ONCE(*nothing);
}

static noinline int recurse(int depth)
{
	volatile char here[256];

	here[0] = depth;
	return depth ? recurse(depth - 1) + here[0] : 0;
}

static void spin(void *deaf)
{
	preempt_disable();
	if (deaf)
		local_irq_disable();
	for (;;)
		cpu_relax();
}

static void flush(void)
{
	/* So that what else runs here does. */
	for (;;) {
		asm volatile("wbinvd" ::: "memory");
		cond_resched();
	}
}

static void null_in_interrupt(struct irq_work *work)
{
	read_nothing();
}

static void bug_in_interrupt(struct irq_work *work)
{
	BUG();
}

static struct irq_work null_work = IRQ_WORK_INIT_HARD(null_in_interrupt);
static struct irq_work bug_work = IRQ_WORK_INIT_HARD(bug_in_interrupt);

static void called(void)
{
}

static void call(struct timer_list *timer)
{
	READ_ONCE(caller->function)();
	mod_timer(timer, jiffies + msecs_to_jiffies(10));
}

static int call_often(void)
{
	if (caller)
		return -EBUSY;
	caller = kzalloc(sizeof(*caller), GFP_KERNEL);
	if (!caller)
		return -ENOMEM;
	caller->function = called;
	timer_setup(&caller->timer, call, 0);
	mod_timer(&caller->timer, jiffies + 1);
	result = virt_to_phys(&caller->function);
	return 0;
}

static int run(const char *name)
{
	if (!strcmp(name, "null")) {
		read_nothing();
	} else if (!strcmp(name, "bug")) {
		BUG();
	} else if (!strcmp(name, "stack")) {
		result = recurse(DEEP);
	} else if (!strcmp(name, "null-irq")) {
		irq_work_queue(&null_work);
	} else if (!strcmp(name, "bug-irq")) {
		irq_work_queue(&bug_work);
	} else if (!strcmp(name, "spin")) {
		spin(NULL);
	} else if (!strcmp(name, "spin-deaf")) {
		spin("deaf");
	} else if (!strcmp(name, "spin-all")) {
		smp_call_function(spin, "deaf", false);
		spin("deaf");
	} else if (!strcmp(name, "wbinvd")) {
		flush();
	} else if (!strcmp(name, "call")) {
		return call_often();
	} else {
		return -EINVAL;
	}
	return 0;
}

static ssize_t fault_write(struct file *file, const char __user *buf, size_t count, loff_t *pos)
{
	char line[16], *name;
	int err;

	if (count >= sizeof(line))
		return -EINVAL;
	if (copy_from_user(line, buf, count))
		return -EFAULT;
	line[count] = 0;
	name = strim(line);
	err = run(name);
	return err ? err : count;
}

static int fault_show(struct seq_file *seq, void *v)
{
	seq_printf(seq, "value=%#llx\n", result);
	return 0;
}

static int fault_open(struct inode *inode, struct file *file)
{
	return single_open(file, fault_show, NULL);
}

static const struct proc_ops fault_ops = {
	.proc_open = fault_open,
	.proc_read = seq_read,
	.proc_write = fault_write,
	.proc_lseek = seq_lseek,
	.proc_release = single_release,
};

static int __init mkfault_init(void)
{
	return proc_create("mkfault", 0600, NULL, &fault_ops) ? 0 : -ENOMEM;
}

static void __exit mkfault_exit(void)
{
	remove_proc_entry("mkfault", NULL);
	if (caller)
		timer_delete_sync(&caller->timer);
	kfree(caller);
}

module_init(mkfault_init);
module_exit(mkfault_exit);
MODULE_LICENSE("GPL");
MODULE_DESCRIPTION("Faults on demand, for tests");
