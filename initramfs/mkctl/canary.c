// SPDX-License-Identifier: GPL-2.0-only
/*
 * canary MIB: a process that holds memory which nobody has a reason to write to.
 * Each page begins with two words by which the harness finds it from outside;
 * a page that was written later was written by somebody who should not have.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "mkctl.h"

/* Complements of each other. harness/oracle/canaries.py knows them. */
#define MARK	0x79726e61636b6d21ULL	/* "!mkcanry" */
#define FILLER	0xa5

static void protect_from_oom(void)
{
	int fd = open("/proc/self/oom_score_adj", O_WRONLY | O_CLOEXEC);

	if (fd < 0 || write(fd, "-1000", 5) != 5)
		fail_errno("/proc/self/oom_score_adj");
	close(fd);
}

int cmd_canary(int argc, char **argv)
{
	uint64_t *word, size, page;
	char *memory;
	int ready[2];
	char byte;

	if (argc != 1)
		usage("canary wants MIB");
	size = parse_number("size", argv[0], 1024) << 20;
	if (pipe2(ready, O_CLOEXEC) < 0)
		fail_errno("pipe");

	switch (fork()) {
	case -1:
		fail_errno("fork");
	case 0:
		setsid();
		signal(SIGHUP, SIG_IGN);
		protect_from_oom();
		/* Writing touches the pages, so that none is left for later. */
		memory = mmap(NULL, size, PROT_READ | PROT_WRITE,
			      MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
		if (memory == MAP_FAILED || mlock(memory, size) < 0)
			fail_errno("%lu bytes of memory", size);
		memset(memory, FILLER, size);
		for (page = 0; page < size; page += PAGE_SIZE) {
			word = (uint64_t *)(memory + page);
			word[0] = MARK;
			word[1] = ~MARK;
		}
		if (write(ready[1], "", 1) != 1)
			fail_errno("pipe");
		close(0);
		close(1);
		close(2);
		for (;;)
			pause();
	}
	close(ready[1]);
	if (read(ready[0], &byte, 1) != 1)
		fail("the canaries did not come up");
	printf("pages=%llu\n", size / PAGE_SIZE);
	return 0;
}
