// SPDX-License-Identifier: GPL-2.0-only
/*
 * System calls as text, so that a test can pass anything to any of them.
 *
 *	[PREFIX...] NAME [ARGUMENT...]		one call; blanks between words
 *
 * NAME is one of names[] below, or a number. An ARGUMENT is a number, or
 *
 *	null unmapped kernel noncanonical	addresses that nobody may use
 *	s:TEXT raw:TEXT		string, with or without a NUL behind; %XX is a byte
 *	hex:BYTES i32:N u64:N	bytes
 *	fill:N:BYTE out:N	N bytes
 *	io:BYTES		bytes that the call reads and changes: all are reported
 *	file:PATH size:PATH	a file's content, its size
 *	fd:PATH fdw:PATH fdrw:PATH	a descriptor, closed after the call
 *	segments:BUFSZ@MEM+MEMSZ,...	an array for kexec_load(2), its bytes 0xa5
 *
 * Every buffer ends where a page ends behind which nothing is mapped, so that
 * to read or write a byte too many is EFAULT. A PREFIX is
 *
 *	uid:N		as that user, without capabilities
 *	userns pidns	as root of a namespace of its own
 *	fail:N		let the Nth allocation of the call fail (CONFIG_FAULT_INJECTION)
 */
#define _GNU_SOURCE
#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <linux/kexec.h>

#include "call.h"
#include "mkctl.h"

#define KERNEL_ADDRESS	0xffffffff81000000UL
#define NONCANONICAL	0x8000000000000000UL

static const struct {
	const char *name;
	long number;
} names[] = {
	{ "chmod", SYS_chmod },
	{ "close", SYS_close },
	{ "fcntl", SYS_fcntl },
	{ "ftruncate", SYS_ftruncate },
	{ "ioctl", SYS_ioctl },
	{ "kexec_file_load", SYS_kexec_file_load },
	{ "kexec_load", SYS_kexec_load },
	{ "link", SYS_link },
	{ "lseek", SYS_lseek },
	{ "memfd_create", SYS_memfd_create },
	{ "mkdir", SYS_mkdir },
	{ "mmap", SYS_mmap },
	{ "mount", SYS_mount },
	{ "munmap", SYS_munmap },
	{ "open", SYS_open },
	{ "pread", SYS_pread64 },
	{ "pwrite", SYS_pwrite64 },
	{ "read", SYS_read },
	{ "reboot", SYS_reboot },
	{ "rename", SYS_rename },
	{ "rmdir", SYS_rmdir },
	{ "symlink", SYS_symlink },
	{ "umount", SYS_umount2 },
	{ "unlink", SYS_unlink },
	{ "write", SYS_write },
};

/* Returns room for size bytes that ends at the end of the mapped memory. */
static char *edge(size_t size)
{
	size_t whole = PAGE_ALIGN(size);
	char *start = mmap(NULL, whole + PAGE_SIZE, PROT_READ | PROT_WRITE,
			   MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (start == MAP_FAILED)
		fail_errno("allocate %zu bytes", size);
	if (munmap(start + whole, PAGE_SIZE))
		fail_errno("munmap");
	return start + whole - size;
}

static long number(const char *text)
{
	char *end;
	long value;

	errno = 0;
	value = *text == '-' ? strtol(text, &end, 0) : (long)strtoul(text, &end, 0);
	if (errno || end == text || *end)
		fail("not an argument: '%s'", text);
	return value;
}

static int nibble(char c)
{
	if (!isxdigit((unsigned char)c))
		fail("not a hexadecimal digit: '%c'", c);
	return isdigit((unsigned char)c) ? c - '0' : (c | 32) - 'a' + 10;
}

static long hex(const char *text)
{
	size_t i, size = strlen(text) / 2;
	char *bytes = edge(size);

	for (i = 0; i < size; i++)
		bytes[i] = nibble(text[2 * i]) << 4 | nibble(text[2 * i + 1]);
	return (long)bytes;
}

static long text_bytes(const char *text, size_t behind)
{
	char *plain = allocate(strlen(text) + 1), *bytes;
	size_t size = 0;

	for (; *text; text++)
		if (*text == '%') {
			plain[size++] = nibble(text[1]) << 4 | nibble(text[2]);
			text += 2;
		} else {
			plain[size++] = *text;
		}
	bytes = edge(size + behind);
	memcpy(bytes, plain, size);
	free(plain);
	return (long)bytes;
}

static long bytes_of(const void *data, size_t size)
{
	return (long)memcpy(edge(size), data, size);
}

static long descriptor(struct call *call, const char *path, int flags)
{
	int fd = open(path, flags | O_CLOEXEC | O_NONBLOCK);

	if (fd < 0)
		call->open_error = errno;
	return fd;
}

static bool starts(const char *word, const char *prefix, const char **rest)
{
	size_t size = strlen(prefix);

	*rest = word + size;
	return !strncmp(word, prefix, size);
}

static long segments(char *text)
{
	struct kexec_segment found[16], *segment = found;
	char *save, *part;

	for (part = strtok_r(text, ",", &save); part; part = strtok_r(NULL, ",", &save), segment++) {
		char *mem = strchr(part, '@'), *memsz = strchr(part, '+');

		if (!mem || !memsz || segment == found + ARRAY_SIZE(found))
			fail("segments want BUFSZ@MEM+MEMSZ, 16 at most");
		*mem++ = *memsz++ = 0;
		segment->bufsz = number(part);
		segment->buf = memset(edge(segment->bufsz), 0xa5, segment->bufsz);
		segment->mem = (void *)number(mem);
		segment->memsz = number(memsz);
	}
	return bytes_of(found, (segment - found) * sizeof(*segment));
}

static long argument(struct call *call, const char *word)
{
	const char *rest;
	char *data;
	size_t size;

	if (!strcmp(word, "null"))
		return 0;
	if (!strcmp(word, "unmapped"))
		return (long)edge(0);
	if (!strcmp(word, "kernel"))
		return KERNEL_ADDRESS;
	if (!strcmp(word, "noncanonical"))
		return NONCANONICAL;
	if (starts(word, "s:", &rest))
		return text_bytes(rest, 1);
	if (starts(word, "raw:", &rest))
		return text_bytes(rest, 0);
	if (starts(word, "hex:", &rest))
		return hex(rest);
	if (starts(word, "io:", &rest)) {
		call->out_size = strlen(rest) / 2;
		call->out = (char *)hex(rest);
		call->out_whole = true;
		return (long)call->out;
	}
	if (starts(word, "i32:", &rest))
		return bytes_of(&(int32_t){ number(rest) }, sizeof(int32_t));
	if (starts(word, "u64:", &rest))
		return bytes_of(&(uint64_t){ number(rest) }, sizeof(uint64_t));
	if (starts(word, "fill:", &rest)) {
		data = strchr(rest, ':');
		if (!data)
			fail("fill wants N:BYTE, not '%s'", rest);
		*data++ = 0;
		size = number(rest);
		return (long)memset(edge(size), number(data), size);
	}
	if (starts(word, "out:", &rest)) {
		call->out_size = number(rest);
		call->out = memset(edge(call->out_size), 0, call->out_size);
		return (long)call->out;
	}
	if (starts(word, "file:", &rest)) {
		data = read_file(rest, &size);
		return bytes_of(data, size);
	}
	if (starts(word, "size:", &rest)) {
		free(read_file(rest, &size));
		return size;
	}
	if (starts(word, "segments:", &rest))
		return segments(strdup(rest));
	if (starts(word, "fd:", &rest))
		return descriptor(call, rest, O_RDONLY);
	if (starts(word, "fdw:", &rest))
		return descriptor(call, rest, O_WRONLY);
	if (starts(word, "fdrw:", &rest))
		return descriptor(call, rest, O_RDWR);
	return number(word);
}

static void put_file(const char *path, const char *text)
{
	int fd = open(path, O_WRONLY | O_CLOEXEC);

	if (fd < 0 || write(fd, text, strlen(text)) < 0)
		fail_errno("write %s to %s", text, path);
	close(fd);
}

static void enter_user_namespace(void)
{
	char map[32];
	uid_t uid = geteuid();
	gid_t gid = getegid();

	if (unshare(CLONE_NEWUSER | CLONE_NEWNS))
		fail_errno("unshare a user namespace");
	snprintf(map, sizeof(map), "0 %u 1", uid);
	put_file("/proc/self/uid_map", map);
	put_file("/proc/self/setgroups", "deny");
	snprintf(map, sizeof(map), "0 %u 1", gid);
	put_file("/proc/self/gid_map", map);
}

/* A PID namespace takes hold of children only, so the call is a child's. */
static void enter_pid_namespace(void)
{
	int status;
	pid_t child;

	if (unshare(CLONE_NEWPID))
		fail_errno("unshare a PID namespace");
	child = fork();
	if (child < 0)
		fail_errno("fork");
	if (!child)
		return;
	if (waitpid(child, &status, 0) < 0)
		fail_errno("waitpid");
	_exit(WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status));
}

static bool prefix(struct call *call, const char *word)
{
	const char *rest;

	if (starts(word, "uid:", &rest)) {
		uid_t uid = number(rest);

		if (setgroups(0, NULL) || setresgid(uid, uid, uid) ||
		    setresuid(uid, uid, uid))
			fail_errno("become user %s", rest);
		/* Else the files in /proc/self are root's, and no namespace can be mapped. */
		if (prctl(PR_SET_DUMPABLE, 1))
			fail_errno("prctl");
	} else if (starts(word, "fail:", &rest)) {
		call->fail_nth = number(rest);
	} else if (!strcmp(word, "userns")) {
		enter_user_namespace();
	} else if (!strcmp(word, "pidns")) {
		enter_pid_namespace();
	} else {
		return false;
	}
	return true;
}

static long call_number(const char *word)
{
	size_t i;

	for (i = 0; i < ARRAY_SIZE(names); i++)
		if (!strcmp(word, names[i].name))
			return names[i].number;
	return number(word);
}

void call_prepare(struct call *call, char *line)
{
	char *save, *word = strtok_r(line, " \n", &save);

	memset(call, 0, sizeof(*call));
	while (word && prefix(call, word))
		word = strtok_r(NULL, " \n", &save);
	if (!word)
		fail("a line names no system call");
	call->number = call_number(word);
	while ((word = strtok_r(NULL, " \n", &save))) {
		if (call->count == ARRAY_SIZE(call->arguments))
			fail("a system call has six arguments at most");
		call->is_fd[call->count] = !strncmp(word, "fd", 2);
		call->arguments[call->count++] = argument(call, word);
	}
}

/* Arms the failure, or reads how many allocations are left to be counted. */
static int fail_nth(int fd, int nth)
{
	char text[16] = "";

	if (nth) {
		snprintf(text, sizeof(text), "%d", nth);
		return pwrite(fd, text, strlen(text), 0) < 0 ? -1 : 0;
	}
	if (pread(fd, text, sizeof(text) - 1, 0) < 0)
		return -1;
	nth = atoi(text);
	if (nth && pwrite(fd, "0", 1, 0) < 0)
		return -1;
	return nth;
}

void call_run(struct call *call)
{
	const long *a = call->arguments;
	int fd = -1;
	size_t i;

	call->result = -1;
	call->error = call->open_error;
	if (call->error)
		return;
	if (call->fail_nth) {
		fd = open("/proc/thread-self/fail-nth", O_RDWR | O_CLOEXEC);
		if (fd < 0 || fail_nth(fd, call->fail_nth))
			fail_errno("/proc/thread-self/fail-nth");
	}
	errno = 0;
	call->result = syscall(call->number, a[0], a[1], a[2], a[3], a[4], a[5]);
	call->error = call->result == -1 ? errno : 0;
	if (fd >= 0) {
		call->injected = fail_nth(fd, 0) == 0;
		close(fd);
	}
	for (i = 0; i < call->count; i++)
		if (call->is_fd[i])
			close(a[i]);
}

const char *error_name(int error)
{
	const char *name = error ? strerrorname_np(error) : "0";

	return name ? name : "E?";
}
