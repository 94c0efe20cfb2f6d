// SPDX-License-Identifier: GPL-2.0-only
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <linux/kexec.h>

#include "mkctl.h"

static int open_image(const char *path)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC);

	if (fd < 0)
		fail_errno("open %s", path);
	return fd;
}

/* load-file KERNEL INITRD|- CMDLINE FLAGS */
int cmd_load_file(int argc, char **argv)
{
	unsigned long flags;
	int kernel, initrd = -1;

	if (argc != 4)
		usage("load-file wants KERNEL INITRD|- CMDLINE FLAGS");
	flags = parse_number("flags", argv[3], ~0ULL);
	kernel = open_image(argv[0]);
	if (strcmp(argv[1], "-"))
		initrd = open_image(argv[1]);
	else
		flags |= KEXEC_FILE_NO_INITRAMFS;

	if (syscall(SYS_kexec_file_load, kernel, initrd,
		    strlen(argv[2]) + 1, argv[2], flags) < 0)
		fail_errno("kexec_file_load %s flags=%#lx", argv[0], flags);
	printf("loaded=%s\nflags=%#lx\n", argv[0], flags);
	return 0;
}

/* unload-file FLAGS */
int cmd_unload_file(int argc, char **argv)
{
	unsigned long flags;

	if (argc != 1)
		usage("unload-file wants FLAGS");
	flags = parse_number("flags", argv[0], ~0ULL) | KEXEC_FILE_UNLOAD;
	if (syscall(SYS_kexec_file_load, -1, -1, 0UL, NULL, flags) < 0)
		fail_errno("kexec_file_load unload flags=%#lx", flags);
	printf("unloaded=1\nflags=%#lx\n", flags);
	return 0;
}
