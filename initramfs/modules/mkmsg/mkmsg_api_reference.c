// SPDX-License-Identifier: GPL-2.0-only
/* The reference series: typed messages between instances; the host is 0. */
#include <linux/errno.h>
#include <linux/multikernel.h>

#include "mkmsg.h"

#define FIRST_TYPE	0x4000
#define NR_TYPES	4

#define ECHO_SUBTYPE	0x80000000

static void receive(u32 type, u32 subtype, int sender_id, const void *payload,
		    u32 len, void *ctx)
{
	mkmsg_receive(type, subtype, sender_id, payload, len);
}

static void unregister(u32 count)
{
	while (count--)
		mk_unregister_msg_handler(FIRST_TYPE + count, receive);
}

static int start(void)
{
	u32 i;
	int err;

	for (i = 0; i < NR_TYPES; i++) {
		err = mk_register_msg_handler(FIRST_TYPE + i, receive, NULL);
		if (err) {
			unregister(i);
			return err;
		}
	}
	return 0;
}

static void stop(void)
{
	unregister(NR_TYPES);
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

const struct mkmsg_api mkmsg_api = {
	.name = "reference",
	.start = start,
	.stop = stop,
	.send = mk_send_message,
	.make_echo = make_echo,
	.answer_to = answer_to,
	.self = mk_self_id,
};
