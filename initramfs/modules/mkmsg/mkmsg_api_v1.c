// SPDX-License-Identifier: GPL-2.0-only
/*
 * First generation: raw data to a CPU. Each handler gets every message, and
 * reads it from the one slot that its CPU has. A destination is a CPU number of
 * the kernel that sends, a sender is an APIC id; they are the same on a host.
 */
#include <linux/errno.h>
#include <linux/multikernel.h>
#include <linux/smp.h>

#include "mkmsg.h"

/* Free in the posts, which know one type of their own, 0x80000001. */
#define ECHO_TYPE	0x40000000

static struct mk_ipi_handler *handler;

static void receive(struct mk_ipi_data *data, void *ctx)
{
	/* Another kernel may write the slot at any time: one look at the size. */
	size_t size = READ_ONCE(data->data_size);

	if (size > sizeof(data->buffer))
		size = sizeof(data->buffer);
	mkmsg_receive(READ_ONCE(data->type), 0, READ_ONCE(data->sender_cpu),
		      data->buffer, size);
}

static int start(void)
{
	handler = multikernel_register_handler(receive, NULL);
	return handler ? 0 : -ENOMEM;
}

static void stop(void)
{
	multikernel_unregister_handler(handler);
}

static int send(int dest, u32 type, u32 subtype, const void *payload, u32 len)
{
	if (subtype)
		return -EOPNOTSUPP;
	return multikernel_send_ipi_data(dest, (void *)payload, len, type);
}

static bool make_echo(u32 *type, u32 *subtype)
{
	if (*type & ECHO_TYPE)
		return false;
	*type |= ECHO_TYPE;
	return true;
}

/*
 * A spawned kernel knows some of the host's CPUs, by numbers of its own; what it
 * sent to a wrong one would come back to itself.
 */
static int answer_to(int sender)
{
	int cpu;

	for_each_possible_cpu(cpu)
		if (cpu_physical_id(cpu) == sender)
			return cpu;
	return -ENXIO;
}

/* A host is called by each of its CPUs; this is its first. */
static int self(void)
{
	return cpu_physical_id(0);
}

static void show(struct seq_file *seq)
{
	int cpu;

	for_each_possible_cpu(cpu)
		seq_printf(seq, "cpu%d_apicid=%d\n", cpu, (int)cpu_physical_id(cpu));
}

/* One of each at a time: they have no types, so a second one would be as the first. */
static struct mk_ipi_handler *hooks[MKMSG_NR_HOOKS];
static void *contexts[MKMSG_NR_HOOKS];

static void hooked(struct mk_ipi_data *data, void *ctx)
{
	u32 hook = (void **)ctx - contexts;

	mkmsg_hooked(contexts[hook], hook, READ_ONCE(data->type), 0, READ_ONCE(data->data_size));
}

static int hook(u32 type, u32 hook, void *ctx)
{
	struct mk_ipi_handler *made;

	if (hook >= MKMSG_NR_HOOKS)
		return multikernel_register_handler(NULL, ctx) ? 0 : -EINVAL;
	if (hooks[hook])
		return -EOPNOTSUPP;
	contexts[hook] = ctx;
	made = multikernel_register_handler(hooked, &contexts[hook]);
	hooks[hook] = made;
	return made ? 0 : -ENOMEM;
}

static int unhook(u32 type, u32 hook)
{
	if (!hooks[hook])
		return -ENOENT;
	multikernel_unregister_handler(hooks[hook]);
	hooks[hook] = NULL;
	return 0;
}

const struct mkmsg_api mkmsg_api = {
	.name = "v1",
	.start = start,
	.stop = stop,
	.send = send,
	.make_echo = make_echo,
	.answer_to = answer_to,
	.hook = hook,
	.unhook = unhook,
	.self = self,
	.show = show,
};
