/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The headers that loaders look at, the entry, and where interrupts arrive.
 *
 * One file is two things: kexec_file_load(2) takes it for a bzImage, by the
 * setup header at 0x1f1 (Documentation/arch/x86/boot.rst), and `mkctl load-v1`
 * for an ELF executable, by the header at 0.
 */

#define SETUP_SECTS	7
#define IMAGE_OFFSET	0x1000		/* (SETUP_SECTS + 1) * 512 */
#define SETUP_END	0x26c		/* of version 2.15's header */
#define ELF_ADDRESS	0x200000	/* or anywhere else */

	/* payload.lds puts the sizes behind this, which are known when it is linked. */
	.section .header.elf, "a"
	.byte	0x7f, 'E', 'L', 'F', 2, 1, 1	/* 64 bits, little endian */
	.org	16
	.word	2, 62				/* ET_EXEC, EM_X86_64 */
	.long	1
	.quad	ELF_ADDRESS + 0x200		/* entry */
	.quad	64, 0				/* program headers, no sections */
	.long	0
	.word	64, 56, 1, 64, 0, 0
	.long	1, 7				/* PT_LOAD, all may be done there */
	.quad	IMAGE_OFFSET, ELF_ADDRESS, ELF_ADDRESS

#define AT(offset)	.org (offset) - 0x1f1
	.section .header.setup, "a"
	.byte	SETUP_SECTS
	AT(0x1fe)
	.word	0xaa55			/* boot_flag */
	/* A jump in a kernel; loaders take its distance for the header's end. */
	.byte	0xeb, SETUP_END - 0x202
	.ascii	"HdrS"
	.word	0x020f			/* version of the boot protocol */
	AT(0x211)
	.byte	1			/* loadflags: LOADED_HIGH */
	AT(0x22c)
	.long	0x7fffffff		/* initrd_addr_max */
	.long	0x1000			/* kernel_alignment */
	.byte	1, 12			/* relocatable_kernel, min_alignment */
	.word	1 | 2 | 32		/* xloadflags: KERNEL_64, CAN_BE_LOADED_ABOVE_4G, 5LEVEL */
	.long	2047			/* cmdline_size */
	AT(0x258)
	.quad	0x100000		/* pref_address */

	.section .head.text, "ax"
	.code32
startup_32:				/* nobody enters here */
	hlt
	jmp	startup_32

	.code64
	.org	0x200
	.globl	startup_64
startup_64:
	cli
	cld
	leaq	stack_top(%rip), %rsp
	leaq	bss(%rip), %rdi
	leaq	bss_end(%rip), %rcx
	subq	%rdi, %rcx
	xorl	%eax, %eax
	rep	stosb
	/* How far the image was moved from where it was linked */
	leaq	image_start(%rip), %rdx
	subq	$IMAGE_OFFSET, %rdx
	leaq	relocations(%rip), %rdi
	leaq	relocations_end(%rip), %rcx
1:	cmpq	%rcx, %rdi
	jae	2f
	/* All are R_X86_64_RELATIVE: offset, type, addend */
	movq	(%rdi), %rax
	movq	16(%rdi), %r8
	addq	%rdx, %r8
	movq	%r8, (%rax,%rdx)
	addq	$24, %rdi
	jmp	1b
2:	movq	%rsi, %rdi
	call	payload
	ud2

/* go_on(function): forget everything that was going on */
	.globl	go_on
go_on:
	leaq	stack_top(%rip), %rsp
	call	*%rdi
	ud2

/* load_segments(gdt descriptor): code 8, data 16 */
	.globl	load_segments
load_segments:
	lgdt	(%rdi)
	movl	$16, %eax
	movl	%eax, %ds
	movl	%eax, %es
	movl	%eax, %ss
	popq	%rax
	pushq	$8
	pushq	%rax
	lretq

/* One entry for each vector, 16 bytes long; the stack is the same for all */
	.balign	16
	.globl	interrupt_entries
interrupt_entries:
	.set	vector, 0
	.rept	256
	.balign	16
	.if	!(vector == 8 || (vector >= 10 && vector <= 14) || vector == 17 || vector == 21 || vector == 29 || vector == 30)
	pushq	$0
	.endif
	pushq	$vector
	jmp	interrupt_common
	.set	vector, vector + 1
	.endr

	.balign	16
interrupt_common:
	.irp	reg, rax, rcx, rdx, rsi, rdi, r8, r9, r10, r11
	pushq	%\reg
	.endr
	leaq	72(%rsp), %rdi
	call	interrupt
	.irp	reg, r11, r10, r9, r8, rdi, rsi, rdx, rcx, rax
	popq	%\reg
	.endr
	addq	$16, %rsp
	iretq

	.section .bss.stack, "aw", @nobits
	.balign	16
	.skip	8192
stack_top:

	.section .note.GNU-stack, "", @progbits
