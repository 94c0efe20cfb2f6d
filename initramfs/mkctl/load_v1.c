// SPDX-License-Identifier: GPL-2.0-only
/*
 * Loads a kernel through kexec_load(2) for the first generation of the
 * multikernel patches, which copy every segment to its physical address at
 * once and jump to the entry as it is. Placement inside the granted range:
 *
 *	BASE + lowest paddr	the kernel, its PT_LOADs flattened into one segment
 *	below the initrd	one segment: stub, boot_params, command line
 *	top of the range	initrd
 *
 * BASE must be 2 MB aligned: the kernel adds it to its own page tables.
 */
#define _GNU_SOURCE
#include <elf.h>
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <asm/bootparam.h>
#include <linux/kexec.h>

#include "mkctl.h"

#define KEXEC_MULTIKERNEL_V1	0x10
#define KERNEL_ALIGN		0x200000ULL
#define LIMIT			0x100000000ULL	/* the entry maps 4 GB, no more */

#define DEFAULT_LOW_START	0x30000ULL
#define DEFAULT_LOW_SIZE	0x50000ULL

#define HEAD_BOOT_PARAMS	0x1000
#define HEAD_CMDLINE		0x2000
#define HEAD_SIZE		0x3000
#define CMDLINE_MAX		2048

#define MAX_RAM			32

struct range {
	uint64_t start;
	uint64_t size;
};

struct request {
	const char *vmlinux, *initrd, *cmdline;
	struct range grant;
	struct range low;
	struct range ram[MAX_RAM];	/* further memory that the kernel may see */
	unsigned int nr_ram;
	uint64_t rsdp;
	uint64_t flags;
};

struct image {
	void *data;
	uint64_t address;
	uint64_t size;
	uint64_t entry;
};

static struct range parse_range(const char *what, const char *text)
{
	char start[64];
	const char *colon = strchr(text, ':');
	struct range range;

	if (!colon || (size_t)(colon - text) >= sizeof(start))
		usage("a range is START:SIZE");
	memcpy(start, text, colon - text);
	start[colon - text] = 0;
	range.start = parse_number(what, start, LIMIT - 1);
	range.size = parse_number(what, colon + 1, LIMIT - range.start);
	return range;
}

static void parse_request(struct request *request, int argc, char **argv)
{
	int i;

	if (argc < 5)
		usage("load-v1 wants VMLINUX INITRD|- CMDLINE BASE SIZE");
	*request = (struct request){
		.vmlinux = argv[0],
		.initrd = argv[1],
		.cmdline = argv[2],
		.grant.start = parse_number("base", argv[3], LIMIT - 1),
		.low = { DEFAULT_LOW_START, DEFAULT_LOW_SIZE },
		.flags = KEXEC_ARCH_X86_64 | KEXEC_MULTIKERNEL_V1,
	};
	request->grant.size = parse_number("size", argv[4],
					   LIMIT - request->grant.start);
	if (request->grant.start % KERNEL_ALIGN)
		fail("base %#lx is not a multiple of 2 MB", request->grant.start);
	if (strlen(request->cmdline) >= CMDLINE_MAX)
		fail("command line longer than %d bytes", CMDLINE_MAX - 1);

	for (i = 5; i < argc; i += 2) {
		if (i + 1 == argc)
			usage("an option of load-v1 wants a value");
		if (!strcmp(argv[i], "--low")) {
			request->low = parse_range("low", argv[i + 1]);
		} else if (!strcmp(argv[i], "--ram")) {
			if (request->nr_ram == MAX_RAM)
				usage("too many --ram");
			request->ram[request->nr_ram++] =
				parse_range("ram", argv[i + 1]);
		} else if (!strcmp(argv[i], "--rsdp")) {
			request->rsdp = parse_number("rsdp", argv[i + 1], ~0ULL);
		} else if (!strcmp(argv[i], "--flags")) {
			request->flags = parse_number("flags", argv[i + 1], ~0ULL);
		} else {
			usage("load-v1 takes --low, --ram, --rsdp and --flags");
		}
	}
}

static const Elf64_Ehdr *check_elf(const char *path, const void *file, size_t size)
{
	const Elf64_Ehdr *elf = file;

	if (size < sizeof(*elf) || memcmp(elf->e_ident, ELFMAG, SELFMAG) ||
	    elf->e_ident[EI_CLASS] != ELFCLASS64 || elf->e_machine != EM_X86_64)
		fail("%s: not an x86-64 ELF file (it takes vmlinux, not bzImage)", path);
	if (elf->e_phentsize != sizeof(Elf64_Phdr) || elf->e_phoff > size ||
	    elf->e_phnum > (size - elf->e_phoff) / sizeof(Elf64_Phdr))
		fail("%s: program headers lie outside the file", path);
	return elf;
}

/* All PT_LOADs in one piece of memory, what has no bytes in the file zeroed. */
static struct image flatten(const char *path, uint64_t base)
{
	uint64_t low = ~0ULL, high = 0;
	struct image image;
	const Elf64_Ehdr *elf;
	const Elf64_Phdr *phdr;
	size_t size;
	void *file = read_file(path, &size);
	int i;

	elf = check_elf(path, file, size);
	phdr = file + elf->e_phoff;
	for (i = 0; i < elf->e_phnum; i++) {
		if (phdr[i].p_type != PT_LOAD || !phdr[i].p_memsz)
			continue;
		if (phdr[i].p_filesz > phdr[i].p_memsz || phdr[i].p_offset > size ||
		    phdr[i].p_filesz > size - phdr[i].p_offset ||
		    phdr[i].p_memsz > LIMIT || phdr[i].p_paddr > LIMIT)
			fail("%s: program header %d is broken", path, i);
		if (phdr[i].p_paddr < low)
			low = phdr[i].p_paddr;
		if (phdr[i].p_paddr + phdr[i].p_memsz > high)
			high = phdr[i].p_paddr + phdr[i].p_memsz;
	}
	if (low >= high)
		fail("%s: nothing to load", path);
	if (elf->e_entry < low || elf->e_entry >= high)
		fail("%s: entry %#lx is not a loaded physical address", path,
		     elf->e_entry);

	low &= ~(PAGE_SIZE - 1);
	image.size = PAGE_ALIGN(high - low);
	image.address = low + base;
	image.entry = elf->e_entry + base;
	image.data = allocate(image.size);
	for (i = 0; i < elf->e_phnum; i++)
		if (phdr[i].p_type == PT_LOAD)
			memcpy(image.data + (phdr[i].p_paddr - low),
			       file + phdr[i].p_offset, phdr[i].p_filesz);
	return image;
}

/* Ascending, so that a reader of the spawned kernel's log finds its way. */
static void add_e820(struct boot_params *params, struct range range)
{
	int i = params->e820_entries++;

	if (!range.size) {
		params->e820_entries--;
		return;
	}
	for (; i > 0 && params->e820_table[i - 1].addr > range.start; i--)
		params->e820_table[i] = params->e820_table[i - 1];
	params->e820_table[i].addr = range.start;
	params->e820_table[i].size = range.size;
	params->e820_table[i].type = 1;		/* RAM */
}

static void fill_boot_params(struct boot_params *params,
			     const struct request *request, uint64_t head,
			     uint64_t initrd, uint64_t initrd_size)
{
	struct setup_header *header = &params->hdr;
	unsigned int i;

	header->boot_flag = 0xaa55;
	header->header = 0x53726448;		/* "HdrS" */
	header->version = 0x020f;
	header->type_of_loader = 0xff;
	header->loadflags = LOADED_HIGH;
	header->vid_mode = 0xffff;
	header->kernel_alignment = KERNEL_ALIGN;
	header->initrd_addr_max = LIMIT - 1;
	header->cmdline_size = CMDLINE_MAX - 1;
	header->cmd_line_ptr = head + HEAD_CMDLINE;
	if (initrd_size) {
		header->ramdisk_image = initrd;
		header->ramdisk_size = initrd_size;
	}
	params->acpi_rsdp_addr = request->rsdp;

	add_e820(params, request->low);
	add_e820(params, request->grant);
	for (i = 0; i < request->nr_ram; i++)
		add_e820(params, request->ram[i]);
}

static void *make_head(const struct request *request, uint64_t head,
		       uint64_t entry, uint64_t initrd, uint64_t initrd_size)
{
	void *page = allocate(HEAD_SIZE);
	uint64_t boot_params = head + HEAD_BOOT_PARAMS;

	_Static_assert(sizeof(struct boot_params) <= HEAD_CMDLINE - HEAD_BOOT_PARAMS,
		       "boot_params fill one page");
	memcpy(page, entry_stub.code, entry_stub.size);
	memcpy(page + entry_stub.entry_offset, &entry, sizeof(entry));
	memcpy(page + entry_stub.boot_params_offset, &boot_params,
	       sizeof(boot_params));
	fill_boot_params(page + HEAD_BOOT_PARAMS, request, head, initrd,
			 initrd_size);
	strcpy(page + HEAD_CMDLINE, request->cmdline);
	return page;
}

/* load-v1 VMLINUX INITRD|- CMDLINE BASE SIZE [--low S:N] [--ram S:N]... [--rsdp A] [--flags N] */
int cmd_load_v1(int argc, char **argv)
{
	struct kexec_segment segments[3];
	unsigned long nr_segments = 2;
	struct request request;
	struct image kernel;
	uint64_t top, head, initrd;
	void *initrd_data = NULL, *head_data;
	size_t initrd_size = 0;

	parse_request(&request, argc, argv);
	kernel = flatten(request.vmlinux, request.grant.start);
	if (strcmp(request.initrd, "-"))
		initrd_data = read_file(request.initrd, &initrd_size);

	top = (request.grant.start + request.grant.size) & ~(PAGE_SIZE - 1);
	if (PAGE_ALIGN(initrd_size) + HEAD_SIZE > request.grant.size ||
	    kernel.address + kernel.size > top - PAGE_ALIGN(initrd_size) - HEAD_SIZE)
		fail("%#lx bytes at %#lx do not hold a kernel up to %#lx and an initrd of %zu bytes",
		     request.grant.size, request.grant.start,
		     kernel.address + kernel.size, initrd_size);
	initrd = top - PAGE_ALIGN(initrd_size);
	head = initrd - HEAD_SIZE;
	head_data = make_head(&request, head, kernel.entry, initrd, initrd_size);

	segments[0] = (struct kexec_segment){
		kernel.data, kernel.size, (void *)kernel.address, kernel.size
	};
	segments[1] = (struct kexec_segment){
		head_data, HEAD_SIZE, (void *)head, HEAD_SIZE
	};
	if (initrd_size)
		segments[nr_segments++] = (struct kexec_segment){
			initrd_data, initrd_size, (void *)initrd,
			PAGE_ALIGN(initrd_size)
		};
	if (syscall(SYS_kexec_load, head, nr_segments, segments, request.flags) < 0)
		fail_errno("kexec_load %s flags=%#lx", request.vmlinux, request.flags);

	printf("entry=%#lx\nkernel=%#lx-%#lx\nkernel_entry=%#lx\n", head,
	       kernel.address, kernel.address + kernel.size - 1, kernel.entry);
	printf("boot_params=%#lx\ncmdline=%#lx\n", head + HEAD_BOOT_PARAMS,
	       head + HEAD_CMDLINE);
	if (initrd_size)
		printf("initrd=%#lx-%#lx\n", initrd, initrd + initrd_size - 1);
	printf("flags=%#lx\n", request.flags);
	return 0;
}

/* unload-v1: every multikernel image (the interface knows no single one) */
int cmd_unload_v1(int argc, char **argv)
{
	(void)argv;
	if (argc)
		usage("unload-v1 takes nothing");
	if (syscall(SYS_kexec_load, 0UL, 0UL, NULL,
		    KEXEC_ARCH_X86_64 | KEXEC_MULTIKERNEL_V1) < 0)
		fail_errno("kexec_load unload");
	printf("unloaded=1\n");
	return 0;
}
