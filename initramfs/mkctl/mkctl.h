/* SPDX-License-Identifier: GPL-2.0-only */
#ifndef MKCTL_H
#define MKCTL_H

#include <stddef.h>
#include <stdint.h>

#define ARRAY_SIZE(a)	(sizeof(a) / sizeof((a)[0]))
#define PAGE_SIZE	4096ULL
#define PAGE_ALIGN(x)	(((x) + PAGE_SIZE - 1) & ~(PAGE_SIZE - 1))

/* util.c: every failure is one line on stderr; exit 1, or 2 for usage */
_Noreturn void fail(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
_Noreturn void fail_errno(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
_Noreturn void usage(const char *why);
uint64_t parse_number(const char *what, const char *text, uint64_t max);
void *allocate(size_t size);
void *read_file(const char *path, size_t *size);

/* stub.c: the code that enters a kernel with boot_params of our own */
struct stub {
	const void *code;
	size_t size;
	size_t entry_offset;		/* u64: where the stub jumps */
	size_t boot_params_offset;	/* u64: what %rsi holds then */
};

extern const struct stub entry_stub;

int cmd_load_file(int argc, char **argv);
int cmd_unload_file(int argc, char **argv);
int cmd_load_v1(int argc, char **argv);
int cmd_unload_v1(int argc, char **argv);
int cmd_multikernel(int argc, char **argv);
int cmd_write_once(int argc, char **argv);
int cmd_serial_irq(int argc, char **argv);
int cmd_serial_port(int argc, char **argv);
int cmd_calls(int argc, char **argv);
int cmd_race(int argc, char **argv);
int cmd_hold(int argc, char **argv);
int cmd_shoot(int argc, char **argv);
int cmd_pipe(int argc, char **argv);
int cmd_heartbeat(int argc, char **argv);
int cmd_heartbeat_read(int argc, char **argv);
int cmd_heartbeat_reset(int argc, char **argv);
int cmd_canary(int argc, char **argv);

#endif
