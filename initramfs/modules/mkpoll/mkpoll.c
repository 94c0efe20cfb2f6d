// SPDX-License-Identifier: GPL-2.0-only
/*
 * mkpoll: serial ports without interrupts, faster.
 *
 * The 8250 driver polls a port with irq 0 every second jiffy, hardly more than
 * one FIFO of 16 bytes each time: 1 to 2 KiB a second. This thread polls in
 * between, closely while bytes flow and less and less often when none come: it
 * has a real-time priority, and what it takes is missing to the command that
 * just came in. Set irq 0 first (mkctl serial-irq).
 *
 *	insmod mkpoll.ko lines=0,1
 */
#include <linux/delay.h>
#include <linux/err.h>
#include <linux/kthread.h>
#include <linux/module.h>
#include <linux/sched.h>
#include <linux/serial_8250.h>

#define MAX_LINES	4
#define BUSY_US		50
#define IDLE_US		1600

/* Exported to modules, though its declaration is the driver's own. */
struct uart_8250_port *serial8250_get_port(int line);

static int lines[MAX_LINES];
static int nr_lines;
module_param_array(lines, int, &nr_lines, 0444);
MODULE_PARM_DESC(lines, "numbers of the ports, as in ttySn");

static struct task_struct *thread;

static bool poll_lines(void)
{
	bool found = false;
	int i;

	for (i = 0; i < nr_lines; i++) {
		struct uart_port *port = &serial8250_get_port(lines[i])->port;

		/* Says no for a port that is not open: its interrupts are off. */
		if (port->handle_irq && port->handle_irq(port))
			found = true;
	}
	return found;
}

static int poll_thread(void *unused)
{
	unsigned int us = IDLE_US;

	while (!kthread_should_stop()) {
		us = poll_lines() ? BUSY_US : min(2 * us, IDLE_US);
		/* Idle, not blocked: else load and lists of blocked tasks would count it. */
		usleep_range_state(us, 2 * us, TASK_IDLE);
	}
	return 0;
}

static int __init mkpoll_init(void)
{
	int i;

	for (i = 0; i < nr_lines; i++)
		if (lines[i] < 0 || lines[i] >= CONFIG_SERIAL_8250_NR_UARTS)
			return -EINVAL;
	thread = kthread_run(poll_thread, NULL, "mkpoll");
	if (IS_ERR(thread))
		return PTR_ERR(thread);
	sched_set_fifo_low(thread);
	return 0;
}

static void __exit mkpoll_exit(void)
{
	kthread_stop(thread);
}

module_init(mkpoll_init);
module_exit(mkpoll_exit);
MODULE_LICENSE("GPL");
MODULE_DESCRIPTION("Polls serial ports that have no interrupt");
