// SPDX-License-Identifier: GPL-2.0-only
/* What two processes on two CPUs of one kernel have: a pair of pipes, timed. */
#define _GNU_SOURCE
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "mkctl.h"

#define MAX_SIZE	4096

static uint64_t now_ns(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return now.tv_sec * 1000000000ULL + now.tv_nsec;
}

static void pin(uint64_t cpu)
{
	cpu_set_t set;

	CPU_ZERO(&set);
	CPU_SET(cpu, &set);
	if (sched_setaffinity(0, sizeof(set), &set))
		fail_errno("run on CPU %llu", (unsigned long long)cpu);
}

static void put(int fd, const void *data, size_t size)
{
	if (write(fd, data, size) != (ssize_t)size)
		fail_errno("write to a pipe");
}

static void get(int fd, char *data, size_t size)
{
	while (size) {
		ssize_t got = read(fd, data, size);

		if (got <= 0)
			fail_errno("read from a pipe");
		data += got;
		size -= got;
	}
}

/* The other process: an answer to each message, or one to all of them */
static _Noreturn void answer(int in, int out, size_t size, uint64_t count, int each)
{
	static char data[MAX_SIZE];

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	while (count--) {
		get(in, data, size);
		if (each || !count)
			put(out, data, size);
	}
	_exit(0);
}

/* Prints ns: of each round trip, or of all messages one way */
int cmd_pipe(int argc, char **argv)
{
	static char data[MAX_SIZE];
	uint64_t size, count, cpus[2], begin, number;
	int there[2], back[2], each;

	if (argc != 5 || (strcmp(argv[0], "round") && strcmp(argv[0], "one-way")))
		usage("pipe: takes a way and four numbers");
	each = !strcmp(argv[0], "round");
	size = parse_number("SIZE", argv[1], MAX_SIZE);
	count = parse_number("COUNT", argv[2], 10000000);
	cpus[0] = parse_number("CPU", argv[3], CPU_SETSIZE - 1);
	cpus[1] = parse_number("CPU", argv[4], CPU_SETSIZE - 1);
	if (!size || !count)
		usage("pipe: no bytes, or no messages");
	if (pipe(there) || pipe(back))
		fail_errno("pipe");
	switch (fork()) {
	case -1:
		fail_errno("fork");
	case 0:
		pin(cpus[1]);
		answer(there[0], back[1], size, count, each);
	}
	pin(cpus[0]);
	begin = now_ns();
	for (number = 0; number < count; number++) {
		put(there[1], data, size);
		if (!each)
			continue;
		get(back[0], data, size);
		printf("%llu\n", (unsigned long long)(now_ns() - begin));
		begin = now_ns();
	}
	if (!each) {
		get(back[0], data, size);
		printf("%llu\n", (unsigned long long)(now_ns() - begin));
	}
	wait(NULL);
	return 0;
}
