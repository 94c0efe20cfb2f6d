// SPDX-License-Identifier: GPL-2.0-only
/*
 * One process per CPU, pinned, that beats into a mapped file. Whoever reads
 * the file later sees which CPUs ran, and the longest time each did not. The
 * file's memory is locked, so that it can be watched from outside as well.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "mkctl.h"

#define MAGIC		0x74616562696b6d00ULL	/* changes with the layout */
#define NS_PER_MS	1000000ULL
#define NS_PER_S	1000000000ULL
#define MAX_CPUS	1024
#define FIRST_BEAT_MS	30000

/* An entry of /proc/PID/pagemap. Source: Documentation/admin-guide/mm/pagemap.rst */
#define PAGE_PRESENT	(1ULL << 63)
#define PAGE_FRAME	((1ULL << 55) - 1)

enum state { STARTING, ONLINE, OFFLINE };

struct record {
	uint32_t cpu;
	_Atomic uint32_t state;
	_Atomic uint64_t beats;
	_Atomic uint64_t last_ns;	/* CLOCK_MONOTONIC */
	_Atomic uint64_t max_gap_ns;
	uint32_t pid;
} __attribute__((aligned(64)));

struct board {
	uint64_t magic;
	uint64_t interval_ns;
	uint32_t nr_records;
	struct record records[] __attribute__((aligned(64)));
};

static uint64_t now_ns(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return now.tv_sec * NS_PER_S + now.tv_nsec;
}

static void sleep_ns(uint64_t ns)
{
	struct timespec left = { ns / NS_PER_S, ns % NS_PER_S };

	while (nanosleep(&left, &left) < 0 && errno == EINTR)
		;
}

static bool pin(uint32_t cpu)
{
	cpu_set_t set;

	CPU_ZERO(&set);
	CPU_SET(cpu, &set);
	return !sched_setaffinity(0, sizeof(set), &set);
}

static void beat_once(struct record *record)
{
	uint64_t now = now_ns(), gap = now - record->last_ns;

	/* A record that is not online has no beat before this one. */
	if (record->state == ONLINE && gap > record->max_gap_ns)
		record->max_gap_ns = gap;
	record->last_ns = now;
	record->beats++;
	record->state = ONLINE;
}

/*
 * A CPU that goes offline loses its processes to others; the record stops then
 * and goes on when the CPU takes its process back.
 */
static _Noreturn void beat(struct record *record, uint64_t interval_ns)
{
	for (;;) {
		if (sched_getcpu() == (int)record->cpu)
			beat_once(record);
		else
			record->state = OFFLINE;
		sleep_ns(interval_ns);
		if (record->state == OFFLINE)
			pin(record->cpu);
	}
}

static struct board *create_board(const char *path, uint32_t nr_records,
				  uint64_t interval_ns)
{
	size_t size = sizeof(struct board) + nr_records * sizeof(struct record);
	int fd = open(path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
	struct board *board;

	if (fd < 0)
		fail_errno("open %s", path);
	if (ftruncate(fd, size) < 0)
		fail_errno("ftruncate %s to %zu", path, size);
	board = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (board == MAP_FAILED)
		fail_errno("mmap %s", path);
	close(fd);
	board->interval_ns = interval_ns;
	board->nr_records = nr_records;
	board->magic = MAGIC;
	return board;
}

static struct board *open_board(const char *path, int prot)
{
	int fd = open(path, prot & PROT_WRITE ? O_RDWR : O_RDONLY);
	struct board *board;
	struct stat stat;

	if (fd < 0)
		fail_errno("open %s", path);
	if (fstat(fd, &stat) < 0)
		fail_errno("stat %s", path);
	if ((size_t)stat.st_size < sizeof(*board))
		fail("%s: not a heartbeat file", path);
	board = mmap(NULL, stat.st_size, prot, MAP_SHARED, fd, 0);
	if (board == MAP_FAILED)
		fail_errno("mmap %s", path);
	if (board->magic != MAGIC ||
	    board->nr_records > (stat.st_size - sizeof(*board)) / sizeof(struct record))
		fail("%s: not a heartbeat file", path);
	return board;
}

/* A daemon must not hold the pipe or line of the one who asked for it. */
static void leave_terminal(void)
{
	int null = open("/dev/null", O_RDWR);

	setsid();
	if (null >= 0) {
		dup2(null, STDIN_FILENO);
		dup2(null, STDOUT_FILENO);
		dup2(null, STDERR_FILENO);
		if (null > STDERR_FILENO)
			close(null);
	} else {
		close(STDIN_FILENO);
		close(STDOUT_FILENO);
		close(STDERR_FILENO);
	}
}

static size_t board_size(const struct board *board)
{
	return sizeof(*board) + board->nr_records * sizeof(struct record);
}

static void start_one(struct board *board, struct record *record)
{
	pid_t pid = fork();

	if (pid < 0)
		fail_errno("fork");
	if (pid) {
		record->pid = pid;
		return;
	}
	leave_terminal();
	prctl(PR_SET_NAME, "mkctl-beat");
	prctl(PR_SET_TIMERSLACK, 1);
	/* A lock is not inherited. Without one it beats as well. */
	mlock(board, board_size(board));
	if (!pin(record->cpu))
		record->state = OFFLINE;
	beat(record, board->interval_ns);
}

static void await_first_beats(struct board *board)
{
	uint64_t deadline = now_ns() + FIRST_BEAT_MS * NS_PER_MS;
	uint32_t i;

	for (i = 0; i < board->nr_records; i++) {
		while (board->records[i].state == STARTING) {
			if (now_ns() > deadline)
				fail("no beat on cpu %u within %d ms",
				     board->records[i].cpu, FIRST_BEAT_MS);
			sleep_ns(NS_PER_MS);
		}
	}
}

/* heartbeat FILE [INTERVAL_MS=10] */
int cmd_heartbeat(int argc, char **argv)
{
	uint64_t interval_ns = 10 * NS_PER_MS;
	uint32_t cpus[MAX_CPUS], count = 0, i;
	struct board *board;
	cpu_set_t online;

	if (argc < 1 || argc > 2)
		usage("heartbeat wants FILE [INTERVAL_MS]");
	if (argc == 2)
		interval_ns = parse_number("interval", argv[1], 60000) * NS_PER_MS;
	if (!interval_ns)
		usage("an interval is at least 1 ms");

	/* Ask for every CPU, in case the caller is pinned; get those online. */
	memset(&online, 0xff, sizeof(online));
	sched_setaffinity(0, sizeof(online), &online);
	CPU_ZERO(&online);
	if (sched_getaffinity(0, sizeof(online), &online) < 0)
		fail_errno("sched_getaffinity");
	for (i = 0; i < MAX_CPUS; i++)
		if (CPU_ISSET(i, &online))
			cpus[count++] = i;

	board = create_board(argv[0], count, interval_ns);
	for (i = 0; i < count; i++)
		board->records[i].cpu = cpus[i];
	for (i = 0; i < count; i++)
		start_one(board, &board->records[i]);
	await_first_beats(board);

	for (i = 0; i < count; i++)
		printf("cpu=%u pid=%u\n", cpus[i], board->records[i].pid);
	return 0;
}

/* Where in this kernel's physical memory something of ours is; 0 if that is not to be known */
static uint64_t physical(const volatile void *at)
{
	uint64_t entry = 0, address = (uintptr_t)at;
	int fd = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);

	if (fd < 0)
		return 0;
	/* The page is there for us once we have read it. */
	(void)*(const volatile char *)at;
	if (pread(fd, &entry, sizeof(entry), address / PAGE_SIZE * sizeof(entry)) != sizeof(entry))
		entry = 0;
	close(fd);
	if (!(entry & PAGE_PRESENT) || !(entry & PAGE_FRAME))
		return 0;
	return (entry & PAGE_FRAME) * PAGE_SIZE + address % PAGE_SIZE;
}

/* heartbeat-read FILE */
int cmd_heartbeat_read(int argc, char **argv)
{
	static const char *const states[] = { "starting", "online", "offline" };
	struct board *board;
	uint32_t i;

	if (argc != 1)
		usage("heartbeat-read wants FILE");
	board = open_board(argv[0], PROT_READ);
	for (i = 0; i < board->nr_records; i++) {
		struct record *record = &board->records[i];
		uint32_t state = record->state;

		printf("cpu=%u beats=%lu last_ms=%.3f max_gap_ms=%.3f state=%s pid=%u address=%#lx\n",
		       record->cpu, record->beats,
		       (double)record->last_ns / NS_PER_MS,
		       (double)record->max_gap_ns / NS_PER_MS,
		       state < ARRAY_SIZE(states) ? states[state] : "unknown",
		       record->pid, physical(&record->beats));
	}
	/* After the records, so that no beat lies in the future. */
	printf("now_ms=%.3f interval_ms=%.3f\n", (double)now_ns() / NS_PER_MS,
	       (double)board->interval_ns / NS_PER_MS);
	return 0;
}

/* heartbeat-reset FILE: forget the longest gaps so far */
int cmd_heartbeat_reset(int argc, char **argv)
{
	struct board *board;
	uint32_t i;

	if (argc != 1)
		usage("heartbeat-reset wants FILE");
	board = open_board(argv[0], PROT_READ | PROT_WRITE);
	for (i = 0; i < board->nr_records; i++)
		board->records[i].max_gap_ns = 0;
	printf("reset=%u\n", board->nr_records);
	return 0;
}
