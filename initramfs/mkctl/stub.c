// SPDX-License-Identifier: GPL-2.0-only
/*
 * The first instructions of a kernel started by load-v1. The series enters an
 * image in 64-bit mode, the first 4 GB mapped one to one, with %rsi at the
 * boot_params of the *host*. A kernel that believed them would take the host's
 * memory, so the stub replaces them. It runs wherever it was copied to; the
 * loader fills in its last two words. No stack is assumed.
 */
#include "mkctl.h"

extern const char stub_start[], stub_entry[], stub_boot_params[], stub_end[];

asm(
"	.pushsection .rodata\n"
"	.balign 16\n"
"stub_start:\n"
"	cli\n"
"	cld\n"
"	movq	stub_boot_params(%rip), %rsi\n"
"	jmp	*stub_entry(%rip)\n"
"	.balign 8\n"
"stub_entry:\n"
"	.quad	0\n"
"stub_boot_params:\n"
"	.quad	0\n"
"stub_end:\n"
"	.popsection\n");

/* The differences of labels are not constants in C; they are in assembly. */
asm(
"	.pushsection .data.rel.ro, \"aw\"\n"
"	.globl	entry_stub\n"
"	.balign 8\n"
"entry_stub:\n"
"	.quad	stub_start\n"
"	.quad	stub_end - stub_start\n"
"	.quad	stub_entry - stub_start\n"
"	.quad	stub_boot_params - stub_start\n"
"	.popsection\n");
