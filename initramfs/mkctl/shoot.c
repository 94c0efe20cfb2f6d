// SPDX-License-Identifier: GPL-2.0-only
/*
 * shoot COUNT: threads of one process on every CPU, each of which changes the
 * protection of a page COUNT times and back, so that the CPUs call each other
 * to forget what they know of it.
 */
#define _GNU_SOURCE
#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <sys/mman.h>
#include <unistd.h>

#include "mkctl.h"

static uint64_t count;

static void *change(void *unused)
{
	volatile char *page = mmap(NULL, PAGE_SIZE, PROT_READ | PROT_WRITE,
				   MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	uint64_t i;

	(void)unused;
	if (page == MAP_FAILED)
		fail_errno("mmap a page");
	for (i = 0; i < count; i++) {
		*page = 1;
		if (mprotect((void *)page, PAGE_SIZE, PROT_READ) ||
		    mprotect((void *)page, PAGE_SIZE, PROT_READ | PROT_WRITE))
			fail_errno("mprotect");
	}
	return NULL;
}

int cmd_shoot(int argc, char **argv)
{
	pthread_t threads[CPU_SETSIZE];
	cpu_set_t all, one;
	int cpu;

	if (argc != 1)
		usage("shoot wants COUNT");
	count = parse_number("count", argv[0], 1000000);
	if (sched_getaffinity(0, sizeof(all), &all))
		fail_errno("sched_getaffinity");
	for (cpu = 0; cpu < CPU_SETSIZE; cpu++) {
		pthread_attr_t attr;

		if (!CPU_ISSET(cpu, &all))
			continue;
		CPU_ZERO(&one);
		CPU_SET(cpu, &one);
		pthread_attr_init(&attr);
		pthread_attr_setaffinity_np(&attr, sizeof(one), &one);
		if (pthread_create(&threads[cpu], &attr, change, NULL))
			fail("cannot make a thread on CPU %d", cpu);
	}
	for (cpu = 0; cpu < CPU_SETSIZE; cpu++)
		if (CPU_ISSET(cpu, &all))
			pthread_join(threads[cpu], NULL);
	printf("cpus=%d\nchanges=%llu\n", CPU_COUNT(&all), (unsigned long long)count);
	return 0;
}
