// SPDX-License-Identifier: GPL-2.0-only
/* Commands with both their streams, and files up and down. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "agent.h"

#define JOBS	8
#define TEXT	(128 * 1024)
/* Where a command's shell reads it from, and what comes before it: the command shall not inherit that. */
#define SCRIPT	3
#define SCRIPT_PATH	"/proc/self/fd/3"
#define SCRIPT_CLOSE	"exec 3<&-;"

struct job {
	bool used;
	uint32_t id;
	pid_t pid;		/* 0: a file */
	int out[2];		/* what F_STDOUT and F_STDERR are read from, or -1 */
	int in;			/* where F_DATA goes, or -1 */
	bool ended;
	uint32_t status, error;
};

static struct job jobs[JOBS];
static struct job spare;		/* a child that waits for a command; pid 0: none */
static char text[TEXT];
static size_t text_length;
static bool text_too_long;

static void close_fd(int *fd)
{
	if (*fd >= 0)
		close(*fd);
	*fd = -1;
}

static void drop(struct job *job)
{
	close_fd(&job->out[0]);
	close_fd(&job->out[1]);
	close_fd(&job->in);
	job->used = false;
	job->pid = 0;
}

static struct job *find(uint32_t id)
{
	for (struct job *job = jobs; job < jobs + JOBS; job++)
		if (job->used && job->id == id)
			return job;
	return NULL;
}

static void finish(struct job *job, int error)
{
	if (!job->ended)
		job->error = error;
	job->ended = true;
}

static void data(struct job *job, const uint8_t *from, size_t length)
{
	while (length && job->in >= 0) {
		ssize_t done = write(job->in, from, length);

		if (done < 0 && errno == EINTR)
			continue;
		if (done < 0) {
			finish(job, errno);
			close_fd(&job->in);
			return;
		}
		from += done;
		length -= done;
	}
}

/* The spare child: a shell that reads from a pipe, and waits there for its command. */
static void be_shell(int in, int out, int err)
{
	int null = open("/dev/null", O_RDONLY);
	sigset_t none;

	setpgid(0, 0);
	dup2(null, STDIN_FILENO);
	dup2(out, STDOUT_FILENO);
	dup2(err, STDERR_FILENO);
	/* It may wait for long, and must not keep others' streams open. */
	dup2(in, SCRIPT);
	close_range(SCRIPT + 1, ~0U, 0);
	signal(SIGPIPE, SIG_DFL);
	sigemptyset(&none);
	sigprocmask(SIG_SETMASK, &none, NULL);
	execl("/bin/sh", "sh", "-c", ". " SCRIPT_PATH, NULL);
	_exit(127);
}

/*
 * Starts a shell ahead: in a machine that was just resumed under TCG every path
 * through the kernel is slow the first time, and fork and execve are half of
 * what a built-in command takes. Returns an errno or 0.
 */
int jobs_prepare(void)
{
	int in[2] = { -1, -1 }, out[2] = { -1, -1 }, err[2] = { -1, -1 };
	int error = 0;

	spare = (struct job){ .out = { -1, -1 }, .in = -1 };
	if (!pipe2(in, O_CLOEXEC) && !pipe2(out, O_CLOEXEC) && !pipe2(err, O_CLOEXEC))
		spare.pid = fork();
	if (!spare.pid && err[1] >= 0)
		be_shell(in[0], out[1], err[1]);
	if (spare.pid > 0) {
		/* In both processes, for whichever comes first. */
		setpgid(spare.pid, spare.pid);
		/* A shell runs the first line before it reads the last: the agent must not wait for it. */
		fcntl(in[1], F_SETPIPE_SZ, 2 * TEXT);
		fcntl(out[0], F_SETFL, O_NONBLOCK);
		fcntl(err[0], F_SETFL, O_NONBLOCK);
		spare.out[0] = out[0];
		spare.out[1] = err[0];
		spare.in = in[1];
		in[1] = out[0] = err[0] = -1;
	} else {
		error = errno;
		spare.pid = 0;
	}
	for (int i = 0; i < 2; i++) {
		close_fd(&in[i]);
		close_fd(&out[i]);
		close_fd(&err[i]);
	}
	return error;
}

static void run(struct job *job)
{
	int error = spare.pid ? 0 : jobs_prepare();
	uint32_t id = job->id;

	if (error) {
		finish(job, error);
		return;
	}
	*job = spare;
	job->used = true;
	job->id = id;
	spare.pid = 0;
	data(job, (const uint8_t *)SCRIPT_CLOSE, sizeof(SCRIPT_CLOSE) - 1);
	data(job, (const uint8_t *)text, text_length);
	close_fd(&job->in);
}

bool jobs_want_spare(void)
{
	for (struct job *job = jobs; job < jobs + JOBS; job++)
		if (job->used)
			return false;
	return !spare.pid;
}

static void put(struct job *job)
{
	char *path;
	mode_t mode = strtoul(text, &path, 8);
	struct stat old;

	path += *path == ' ';
	/* A program that runs cannot be written to, but it can be replaced. */
	if (!lstat(path, &old) && S_ISREG(old.st_mode))
		unlink(path);
	job->in = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, mode);
	if (job->in < 0)
		finish(job, errno);
	else
		fchmod(job->in, mode);
}

static void start(uint8_t type, uint32_t id)
{
	struct job *job = jobs;

	while (job < jobs + JOBS && job->used)
		job++;
	if (job == jobs + JOBS) {
		uint8_t payload[8] = { 0 };

		put_le32(payload + 4, EAGAIN);
		/* Dropped when the window is full: the host's time-out tells. */
		if (link_can_send())
			link_send(F_EXIT, id, payload, sizeof(payload));
		return;
	}
	*job = (struct job){ .used = true, .id = id, .out = { -1, -1 }, .in = -1 };
	if (text_too_long) {
		finish(job, E2BIG);
	} else if (type == F_RUN) {
		run(job);
	} else if (type == F_PUT) {
		put(job);
	} else {
		job->out[0] = open(text, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
		finish(job, job->out[0] < 0 ? errno : 0);
	}
}

void jobs_frame(uint8_t type, uint32_t id, const uint8_t *payload, size_t length)
{
	struct job *job = find(id);

	switch (type) {
	case F_TEXT:
	case F_RUN:
	case F_PUT:
	case F_GET:
		if (text_length + length < sizeof(text)) {
			memcpy(text + text_length, payload, length);
			text_length += length;
		} else {
			text_too_long = true;
		}
		if (type == F_TEXT)
			break;
		text[text_length] = '\0';
		if (!job)
			start(type, id);
		text_length = 0;
		text_too_long = false;
		break;
	case F_KILL:
		if (job && job->pid && !job->ended && length)
			kill(-job->pid, payload[0]);
		break;
	case F_DATA:
		if (job)
			data(job, payload, length);
		break;
	case F_CLOSE:
		if (!job || job->pid)
			break;
		if (job->in >= 0 && close(job->in))
			finish(job, errno);
		job->in = -1;
		finish(job, 0);
		break;
	}
}

/* A new session knows nothing of the old one's commands. */
void jobs_reset(void)
{
	for (struct job *job = jobs; job < jobs + JOBS; job++) {
		if (!job->used)
			continue;
		if (job->pid && !job->ended)
			kill(-job->pid, SIGKILL);
		drop(job);
	}
	text_length = 0;
	text_too_long = false;
}

void jobs_reap(void)
{
	int status;
	pid_t pid;

	while ((pid = waitpid(-1, &status, WNOHANG)) > 0) {
		if (pid == spare.pid)
			drop(&spare);
		for (struct job *job = jobs; job < jobs + JOBS; job++) {
			if (job->used && job->pid == pid) {
				job->status = status;
				finish(job, 0);
			}
		}
	}
}

/* True when there is nothing more to read for now, false when the window is full. */
static bool pump_stream(struct job *job, int stream)
{
	uint8_t bytes[PAYLOAD_MAX];

	while (job->out[stream] >= 0) {
		ssize_t count;

		if (!link_can_send())
			return false;
		count = read(job->out[stream], bytes, sizeof(bytes));
		if (count > 0) {
			link_send(F_STDOUT + stream, job->id, bytes, count);
			continue;
		}
		if (count < 0 && errno == EINTR)
			continue;
		if (count < 0 && errno == EAGAIN)
			return true;
		if (count < 0 && !job->error)
			job->error = errno;
		close_fd(&job->out[stream]);
	}
	return true;
}

/*
 * A command is over when its shell is: what it left running in the background
 * may hold the streams for ever.
 */
void jobs_pump(void)
{
	static unsigned int first;

	/* Each time another one first, or one that floods would be heard alone. */
	first++;
	for (unsigned int i = 0; i < JOBS; i++) {
		struct job *job = &jobs[(first + i) % JOBS];
		uint8_t payload[8];

		if (!job->used || !pump_stream(job, 0) || !pump_stream(job, 1) ||
		    !job->ended || !link_can_send())
			continue;
		put_le32(payload, job->status);
		put_le32(payload + 4, job->error);
		link_send(F_EXIT, job->id, payload, sizeof(payload));
		drop(job);
	}
}

size_t jobs_poll(struct pollfd *fds, size_t room)
{
	size_t count = 0;

	if (!link_can_send())
		return 0;
	for (struct job *job = jobs; job < jobs + JOBS; job++)
		for (int i = 0; i < 2 && job->used; i++)
			if (job->out[i] >= 0 && count < room)
				fds[count++] = (struct pollfd){ .fd = job->out[i], .events = POLLIN };
	return count;
}
