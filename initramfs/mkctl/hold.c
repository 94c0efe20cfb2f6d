// SPDX-License-Identifier: GPL-2.0-only
/*
 * hold FOLDER: a process that makes calls for others and keeps what they open.
 *
 * Whoever wants calls made writes them to FOLDER/in, one per line as in call.c,
 * and then reads a result per line from FOLDER/out. This one process makes them
 * all, so a descriptor that one call gave is there for the next ones. A line
 * that is no call ends it, with the reason in FOLDER/out.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "call.h"
#include "mkctl.h"

/* Makes the calls in @text, each with its result on stdout */
static void make_calls(char *text)
{
	char *line, *save;
	struct call call;

	for (line = strtok_r(text, "\n", &save); line; line = strtok_r(NULL, "\n", &save)) {
		call_prepare(&call, line);
		call_run(&call);
		call_report(&call, 0);
	}
}

static void serve(void)
{
	size_t size;
	char *text;
	int out;

	for (;;) {
		text = read_file("in", &size);
		out = open("out", O_WRONLY | O_CLOEXEC);
		if (out < 0)
			exit(1);
		dup2(out, STDOUT_FILENO);
		dup2(out, STDERR_FILENO);
		close(out);
		text = realloc(text, size + 1);
		text[size] = 0;
		make_calls(text);
		free(text);
		/* The reader waits for the end of it. */
		out = open("/dev/null", O_WRONLY | O_CLOEXEC);
		dup2(out, STDOUT_FILENO);
		dup2(out, STDERR_FILENO);
		close(out);
	}
}

int cmd_hold(int argc, char **argv)
{
	pid_t child;

	if (argc != 1)
		usage("hold wants FOLDER");
	if (mkdir(argv[0], 0700) || chdir(argv[0]) || mkfifo("in", 0600) || mkfifo("out", 0600))
		fail_errno("make %s with two pipes", argv[0]);
	child = fork();
	if (child < 0)
		fail_errno("fork");
	if (!child) {
		setsid();
		signal(SIGHUP, SIG_IGN);
		signal(SIGPIPE, SIG_IGN);
		for (int fd = 0; fd < 3; fd++)
			close(fd);
		for (int fd = 0; fd < 3; fd++)
			if (open("/dev/null", O_RDWR) != fd)
				_exit(1);
		serve();
	}
	printf("pid=%d\n", child);
	return 0;
}
