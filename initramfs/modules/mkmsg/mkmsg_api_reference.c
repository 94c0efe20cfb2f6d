// SPDX-License-Identifier: GPL-2.0-only
/* The reference series: typed messages between instances; the host is 0. */
#include <linux/errno.h>
#include <linux/multikernel.h>

#include "mkmsg.h"

#define ECHO_SUBTYPE	0x80000000

static void receive(u32 type, u32 subtype, int sender_id, const void *payload,
		    u32 len, void *ctx)
{
	mkmsg_receive(type, subtype, sender_id, payload, len);
}

static void unregister(u32 count)
{
	while (count--)
		mk_unregister_msg_handler(MKMSG_FIRST_TYPE + count, receive);
}

static int start(void)
{
	u32 i;
	int err;

	for (i = 0; i < MKMSG_NR_TYPES; i++) {
		err = mk_register_msg_handler(MKMSG_FIRST_TYPE + i, receive, NULL);
		if (err) {
			unregister(i);
			return err;
		}
	}
	return 0;
}

static void stop(void)
{
	unregister(MKMSG_NR_TYPES);
}

static bool make_echo(u32 *type, u32 *subtype)
{
	if (*subtype & ECHO_SUBTYPE)
		return false;
	*subtype |= ECHO_SUBTYPE;
	return true;
}

static int answer_to(int sender)
{
	return sender;
}

static void hook0(u32 type, u32 subtype, int sender_id, const void *payload,
		   u32 len, void *ctx)
{
	mkmsg_hooked(ctx, 0, type, subtype, len);
}

static void hook1(u32 type, u32 subtype, int sender_id, const void *payload,
		   u32 len, void *ctx)
{
	mkmsg_hooked(ctx, 1, type, subtype, len);
}

static const mk_msg_handler_t hooks[MKMSG_NR_HOOKS] = { hook0, hook1 };

static int hook(u32 type, u32 hook, void *ctx)
{
	return mk_register_msg_handler(type, hook < MKMSG_NR_HOOKS ? hooks[hook] : NULL, ctx);
}

static int unhook(u32 type, u32 hook)
{
	return mk_unregister_msg_handler(type, hooks[hook]);
}

const struct mkmsg_api mkmsg_api = {
	.name = "reference",
	.start = start,
	.stop = stop,
	.send = mk_send_message,
	.make_echo = make_echo,
	.answer_to = answer_to,
	.hook = hook,
	.unhook = unhook,
	.self = mk_self_id,
};
