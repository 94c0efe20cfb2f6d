/* SPDX-License-Identifier: GPL-2.0-only */
#ifndef MKMSG_H
#define MKMSG_H

#include <linux/seq_file.h>
#include <linux/types.h>

/* More than any generation carries, so that the refusal is the kernel's own. */
#define MKMSG_MAX_PAYLOAD	8192

/* How one generation of the patches sends and receives. */
struct mkmsg_api {
	const char *name;
	int (*start)(void);
	void (*stop)(void);
	int (*send)(int dest, u32 type, u32 subtype, const void *payload, u32 len);
	/* Turns a message into its echo; false: it is an echo already. */
	bool (*make_echo)(u32 *type, u32 *subtype);
	/* Where an answer to this sender goes, or an error. */
	int (*answer_to)(int sender);
	/* What others call this kernel. */
	int (*self)(void);
	/* Lines of key=value that only this generation has; may be NULL. */
	void (*show)(struct seq_file *seq);
};

extern const struct mkmsg_api mkmsg_api;

/* An api calls this for every message, from any context. */
void mkmsg_receive(u32 type, u32 subtype, int sender, const void *payload, u32 len);

#endif
