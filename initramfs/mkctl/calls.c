// SPDX-License-Identifier: GPL-2.0-only
/* Many calls one after another, and several processes that loop over calls. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "call.h"
#include "mkctl.h"

#define MAX_LOOPS	16
#define MAX_STEPS	8
#define MAX_ERROR	160

static double now(void)
{
	struct timespec time;

	clock_gettime(CLOCK_MONOTONIC, &time);
	return time.tv_sec + time.tv_nsec / 1e9;
}

void call_report(const struct call *call, double seconds)
{
	long i, shown = call->result < SHOWN ? call->result : SHOWN;

	printf("%ld %s %.4f", call->result, error_name(call->error), seconds);
	if (call->injected)
		printf(" injected");
	if (call->out && (call->out_whole || shown > (long)call->out_size))
		shown = call->out_size < SHOWN ? call->out_size : SHOWN;
	if (call->out && shown > 0) {
		printf(" out=");
		for (i = 0; i < shown; i++)
			printf("%02x", (unsigned char)call->out[i]);
	}
	putchar('\n');
	if (fflush(stdout))
		_exit(1);
}

/* Reads one line from a pipe into @line, false when there is none */
static bool read_line(int fd, char *line, size_t room)
{
	size_t length = 0;
	ssize_t got;

	while (length < room - 1 && (got = read(fd, line + length, room - 1 - length)) > 0) {
		length += got;
		if (line[length - 1] == '\n')
			break;
	}
	line[length] = 0;
	return length && line[length - 1] == '\n';
}

/*
 * Runs one call in a child, since it may hang, be killed, or change who it is.
 * What is hung is killed and left behind, as nobody can wait for it. The child
 * tells the parent what became of the call, so that the answer is one in any
 * case, even for a call that ends just when its time is over.
 */
static void run_watched(char *line, double limit)
{
	static char answer[2 * SHOWN + 256];
	int end[2], status;
	struct pollfd ended;
	struct call call;
	pid_t child;
	bool hung;

	fflush(stdout);
	if (pipe(end))
		fail_errno("pipe");
	child = fork();
	if (child < 0)
		fail_errno("fork");
	if (!child) {
		double start;

		close(end[0]);
		if (dup2(end[1], STDOUT_FILENO) < 0)
			fail_errno("dup2");
		call_prepare(&call, line);
		start = now();
		call_run(&call);
		call_report(&call, now() - start);
		_exit(0);
	}
	close(end[1]);
	ended = (struct pollfd){ .fd = end[0], .events = POLLIN };
	hung = poll(&ended, 1, limit * 1000) == 0;
	if (hung) {
		kill(child, SIGKILL);
		/* It holds the pipe's other end open for as long as it hangs. */
		fcntl(end[0], F_SETFL, O_NONBLOCK);
	}
	if (read_line(end[0], answer, sizeof(answer))) {
		fputs(answer, stdout);
		waitpid(child, NULL, 0);
	} else if (hung) {
		printf("hung\n");
	} else if (waitpid(child, &status, 0) < 0) {
		fail_errno("waitpid");
	} else if (WIFSIGNALED(status)) {
		printf("killed %d\n", WTERMSIG(status));
	} else {
		printf("impossible\n");
	}
	close(end[0]);
}

/* calls SECONDS: a call per line of stdin, a result per line of stdout */
int cmd_calls(int argc, char **argv)
{
	char *line, *save, *text;
	double limit;
	size_t size;

	if (argc != 1)
		usage("calls wants SECONDS");
	limit = parse_number("seconds", argv[0], 3600);
	text = read_file("-", &size);
	text = realloc(text, size + 1);
	if (!text)
		fail_errno("allocate %zu bytes", size + 1);
	text[size] = 0;
	for (line = strtok_r(text, "\n", &save); line; line = strtok_r(NULL, "\n", &save))
		run_watched(line, limit);
	return 0;
}

/* What became of one loop's steps, in memory that all processes share. */
struct tally {
	unsigned long counts[MAX_STEPS][MAX_ERROR];
};

static unsigned int pick(uint64_t *state, unsigned int below)
{
	*state ^= *state << 13;
	*state ^= *state >> 7;
	*state ^= *state << 17;
	return *state % below;
}

static void loop(char *line, uint64_t seed, double until, struct tally *tally)
{
	char *steps[MAX_STEPS], *save, copy[8192];
	size_t count = 0, i;
	struct call call;

	for (char *step = strtok_r(line, ";", &save); step; step = strtok_r(NULL, ";", &save)) {
		if (count == MAX_STEPS)
			fail("a loop has %d steps at most", MAX_STEPS);
		steps[count++] = step;
	}
	while (now() < until)
		for (i = 0; i < count && now() < until; i++) {
			if (strlen(steps[i]) >= sizeof(copy))
				fail("a step is too long");
			/* A child each time: nothing is left mapped or open. */
			pid_t child;

			strcpy(copy, steps[i]);
			usleep(pick(&seed, 2000));
			child = fork();
			if (child < 0)
				fail_errno("fork");
			if (!child) {
				call_prepare(&call, copy);
				call_run(&call);
				if (call.error < MAX_ERROR)
					__atomic_add_fetch(&tally->counts[i][call.error], 1,
							   __ATOMIC_RELAXED);
				_exit(0);
			}
			waitpid(child, NULL, 0);
		}
}

/*
 * race SEED MS: each line of stdin is a loop of steps divided by ";", run by a
 * process of its own until the time is over. Prints one line per step:
 * LOOP STEP ERRNO=COUNT...
 */
int cmd_race(int argc, char **argv)
{
	char *lines[MAX_LOOPS], *save, *text;
	size_t count = 0, size, i, step, error;
	struct tally *tallies;
	uint64_t seed;
	double until;

	if (argc != 2)
		usage("race wants SEED MS");
	seed = parse_number("seed", argv[0], ~0ULL >> 1) * 2 + 1;
	until = now() + parse_number("milliseconds", argv[1], 3600000) / 1e3;
	text = read_file("-", &size);
	text = realloc(text, size + 1);
	if (!text)
		fail_errno("allocate %zu bytes", size + 1);
	text[size] = 0;
	for (char *line = strtok_r(text, "\n", &save); line; line = strtok_r(NULL, "\n", &save)) {
		if (count == MAX_LOOPS)
			fail("a race has %d loops at most", MAX_LOOPS);
		lines[count++] = line;
	}
	tallies = mmap(NULL, sizeof(*tallies) * MAX_LOOPS, PROT_READ | PROT_WRITE,
		       MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (tallies == MAP_FAILED)
		fail_errno("allocate the tallies");
	for (i = 0; i < count; i++) {
		pid_t child = fork();

		if (child < 0)
			fail_errno("fork");
		if (!child) {
			loop(lines[i], seed + i * 0x9e3779b97f4a7c15ULL, until, &tallies[i]);
			_exit(0);
		}
	}
	while (wait(NULL) > 0 || errno == EINTR)
		;
	for (i = 0; i < count; i++)
		for (step = 0; step < MAX_STEPS; step++) {
			bool any = false;

			for (error = 0; error < MAX_ERROR; error++) {
				if (!tallies[i].counts[step][error])
					continue;
				if (!any)
					printf("%zu %zu", i, step);
				any = true;
				printf(" %s=%lu", error_name(error),
				       tallies[i].counts[step][error]);
			}
			if (any)
				putchar('\n');
		}
	return 0;
}
