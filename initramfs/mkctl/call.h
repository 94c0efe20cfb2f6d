/* SPDX-License-Identifier: GPL-2.0-only */
/* call.c: system calls written as text; its head tells the language */
#ifndef CALL_H
#define CALL_H

#include <stdbool.h>
#include <stddef.h>

/* Bytes of a buffer that are reported */
#define SHOWN	4096

struct call {
	long number;
	long arguments[6];
	bool is_fd[6];
	size_t count;
	char *out;		/* what the call is to fill, or NULL */
	size_t out_size;
	bool out_whole;		/* whatever the call returns, it may have filled all */
	int open_error;		/* of a descriptor among the arguments */
	int fail_nth;

	long result;
	int error;
	bool injected;		/* the allocation to fail was reached */
};

/* Applies the prefixes to the calling process, for good. LINE is cut up. */
void call_prepare(struct call *call, char *line);
void call_run(struct call *call);
void call_report(const struct call *call, double seconds);
const char *error_name(int error);

#endif
