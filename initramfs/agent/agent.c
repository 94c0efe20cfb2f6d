// SPDX-License-Identifier: GPL-2.0-only
/* usage: mkagent TTY */
#define _GNU_SOURCE
#include <err.h>
#include <poll.h>
#include <signal.h>
#include <time.h>

#include "agent.h"

/* After so long without anything to do it prepares for the next command. */
#define QUIET_MS	100

/* It is only there to interrupt ppoll(). */
static void child_ended(int signal)
{
	(void)signal;
}

int main(int argc, char **argv)
{
	struct sigaction action = { .sa_handler = child_ended };
	sigset_t child, none;

	if (argc != 2)
		errx(2, "usage: mkagent TTY");
	sigemptyset(&none);
	sigemptyset(&child);
	sigaddset(&child, SIGCHLD);
	/* Blocked but in ppoll(), so that no end of a child goes unnoticed. */
	sigprocmask(SIG_SETMASK, &child, NULL);
	sigaction(SIGCHLD, &action, NULL);
	/* A child that was to get its command may have been killed. */
	signal(SIGPIPE, SIG_IGN);
	link_open(argv[1]);

	for (;;) {
		struct pollfd fds[32];
		struct timespec time;
		size_t count;
		int ms, ready;
		bool spare;

		jobs_reap();
		jobs_pump();
		ms = link_flush();
		spare = jobs_want_spare() && (ms < 0 || ms > QUIET_MS);
		if (spare)
			ms = QUIET_MS;
		time.tv_sec = ms / 1000;
		time.tv_nsec = ms % 1000 * 1000000L;
		fds[0] = (struct pollfd){ .fd = link_fd(), .events = POLLIN };
		count = 1 + jobs_poll(fds + 1, 31);
		ready = ppoll(fds, count, ms < 0 ? NULL : &time, &none);
		if (ready > 0 && fds[0].revents)
			link_input();
		else if (!ready && spare)
			jobs_prepare();
	}
}
