/* SPDX-License-Identifier: GPL-2.0-only */
/* What the files with commands share. */
#ifndef COMMANDS_H
#define COMMANDS_H

#include "payload.h"

#define MAX_ARGUMENTS	5

struct arguments {
	int count;
	char *word[MAX_ARGUMENTS];
	u64 value[MAX_ARGUMENTS];	/* of the words that are numbers, 0 for the others */
};

#pragma GCC visibility push(hidden)

/* A command returns NULL for "ok", "" when it has said so itself, or what is wrong. */
const char *do_peek(struct arguments *with);
const char *do_poke(struct arguments *with);
const char *do_dump(struct arguments *with);
const char *do_fill(struct arguments *with);
const char *do_in(struct arguments *with);
const char *do_out(struct arguments *with);
const char *do_rdmsr(struct arguments *with);
const char *do_wrmsr(struct arguments *with);
const char *do_wbinvd(struct arguments *with);
const char *do_send(struct arguments *with);
const char *do_forge(struct arguments *with);
const char *do_recv(struct arguments *with);
const char *do_hold(struct arguments *with);
const char *do_echo(struct arguments *with);
const char *do_flood(struct arguments *with);
const char *do_tally(struct arguments *with);
const char *do_tamper(struct arguments *with);
const char *do_ipi(struct arguments *with);

#pragma GCC visibility pop

#endif
