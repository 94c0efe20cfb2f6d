// SPDX-License-Identifier: GPL-2.0-only
/*
 * Second generation: typed messages to an instance. A receiver is not told who
 * sent, so there is nobody to echo to.
 */
#include <linux/errno.h>
#include <linux/multikernel.h>

#include "mkmsg.h"

#define UNKNOWN		-1

static void receive(u32 type, u32 subtype, void *payload, u32 len, void *ctx)
{
	mkmsg_receive(type, subtype, UNKNOWN, payload, len);
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

static int send(int dest, u32 type, u32 subtype, const void *payload, u32 len)
{
	return mk_send_message(dest, type, subtype, (void *)payload, len);
}

static bool make_echo(u32 *type, u32 *subtype)
{
	return false;
}

static int answer_to(int sender)
{
	return -ENXIO;
}

static int self(void)
{
	return UNKNOWN;
}

static void hook0(u32 type, u32 subtype, void *payload, u32 len,
		   void *ctx)
{
	mkmsg_hooked(ctx, 0, type, subtype, len);
}

static void hook1(u32 type, u32 subtype, void *payload, u32 len,
		   void *ctx)
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
	.name = "v2",
	.start = start,
	.stop = stop,
	.send = send,
	.make_echo = make_echo,
	.answer_to = answer_to,
	.hook = hook,
	.unhook = unhook,
	.self = self,
};
