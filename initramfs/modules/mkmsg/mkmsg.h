/* SPDX-License-Identifier: GPL-2.0-only */
#ifndef MKMSG_H
#define MKMSG_H

#include <linux/proc_fs.h>
#include <linux/seq_file.h>
#include <linux/types.h>

/* More than any generation carries, so that the refusal is the kernel's own. */
#define MKMSG_MAX_PAYLOAD	8192

/* The types that the module listens to; these two of them are counted, not kept. */
#define MKMSG_FIRST_TYPE	0x4000
#define MKMSG_NR_TYPES		4
#define MKMSG_FLOOD		0x4002
#define MKMSG_PING		0x4003

/* Functions that can be registered as handlers beside the module's own. */
#define MKMSG_NR_HOOKS		2

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
	/* Registers function HOOK, or NULL if it is none of them, for a type. */
	int (*hook)(u32 type, u32 hook, void *ctx);
	int (*unhook)(u32 type, u32 hook);
	/* Lines of key=value that only this generation has; may be NULL. */
	void (*show)(struct seq_file *seq);
};

extern const struct mkmsg_api mkmsg_api;

/* An api calls this for every message, from any context. */
void mkmsg_receive(u32 type, u32 subtype, int sender, const void *payload, u32 len);
/* And this for every call of a hook, with what it was registered with. */
void mkmsg_hooked(void *ctx, u32 hook, u32 type, u32 subtype, u32 len);

/* A command of user space, without its newline. */
int mkmsg_command(char *command, size_t room, const char __user *buf, size_t count);

/* mkmsg_flood.c, mkmsg_latency.c, mkmsg_hooks.c */
extern const struct proc_ops mkmsg_flood_ops;
extern const struct proc_ops mkmsg_latency_ops;
extern const struct proc_ops mkmsg_hooks_ops;
void mkmsg_flood_receive(const void *payload, u32 len);
void mkmsg_ping_receive(u32 type, u32 subtype, int sender, const void *payload, u32 len);
void mkmsg_unhook_all(void);

#endif
