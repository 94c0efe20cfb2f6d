// SPDX-License-Identifier: GPL-2.0-only
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "mkctl.h"

static void complain(const char *fmt, va_list args)
{
	fflush(stdout);
	fputs("mkctl: ", stderr);
	vfprintf(stderr, fmt, args);
}

void fail(const char *fmt, ...)
{
	va_list args;

	va_start(args, fmt);
	complain(fmt, args);
	va_end(args);
	fputc('\n', stderr);
	exit(1);
}

void fail_errno(const char *fmt, ...)
{
	int error = errno;
	const char *name = strerrorname_np(error);
	va_list args;

	va_start(args, fmt);
	complain(fmt, args);
	va_end(args);
	if (name)
		fprintf(stderr, ": %s (%s)\n", strerror(error), name);
	else
		fprintf(stderr, ": %s (%d)\n", strerror(error), error);
	exit(1);
}

uint64_t parse_number(const char *what, const char *text, uint64_t max)
{
	unsigned long long value;
	char *end;

	errno = 0;
	value = strtoull(text, &end, 0);
	if (errno || end == text || *end || *text == '-' || value > max) {
		fprintf(stderr, "mkctl: %s: not a number from 0 to %#llx: '%s'\n",
			what, (unsigned long long)max, text);
		exit(2);
	}
	return value;
}

void *allocate(size_t size)
{
	void *memory = calloc(1, size ? size : 1);

	if (!memory)
		fail_errno("allocate %zu bytes", size);
	return memory;
}

/* Reads to the end, so that pipes and files of /proc work ("-": stdin). */
void *read_file(const char *path, size_t *size)
{
	int fd = strcmp(path, "-") ? open(path, O_RDONLY | O_CLOEXEC) : STDIN_FILENO;
	size_t room = 1 << 16, used = 0;
	char *data;

	if (fd < 0)
		fail_errno("open %s", path);
	data = allocate(room);
	for (;;) {
		ssize_t got = read(fd, data + used, room - used);

		if (got < 0 && errno == EINTR)
			continue;
		if (got < 0)
			fail_errno("read %s", path);
		if (!got)
			break;
		used += got;
		if (used == room) {
			room *= 2;
			data = realloc(data, room);
			if (!data)
				fail_errno("allocate %zu bytes", room);
		}
	}
	if (fd != STDIN_FILENO)
		close(fd);
	*size = used;
	return data;
}
