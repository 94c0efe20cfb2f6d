/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * mkagent: takes commands for one kernel on a serial line of its own.
 *
 * link.c is a reliable, ordered link of small frames over a tty that may lose
 * or add bytes; jobs.c runs commands and moves files. The other end is
 * harness/vm/link.py and channel.py.
 *
 * A frame on the wire is FLAG body FLAG; within the body FLAG and ESCAPE are
 * sent as ESCAPE, byte ^ FLIP, so that a receiver is in step again at the next
 * FLAG whatever came before. The body, little endian:
 *
 *	u8 type, u16 sequence, u16 acknowledged, u32 id, payload, u32 CRC-32
 */
#ifndef MKAGENT_H
#define MKAGENT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define PROTOCOL_VERSION	1
#define PAYLOAD_MAX		512
/*
 * Frames that may be under way unacknowledged. 8 KiB fit into a tty's buffers
 * even where nobody reads for a while.
 */
#define WINDOW			16

enum frame_type {
	/* Without a place in the sequence. */
	F_HELLO = 1,		/* host: begin session ID */
	F_WELCOME = 2,		/* agent: session ID began; u32 version, release */
	F_ACK = 3,
	F_NAK = 4,		/* damaged or out of order: go back to ACKNOWLEDGED */
	F_NOSESSION = 5,	/* agent: just started, say hello first */

	/* Sequenced, from the host. */
	F_TEXT = 16,		/* a further part of the text of RUN, PUT, GET */
	F_RUN = 17,		/* text: a shell command */
	F_KILL = 18,		/* u8 signal for the command's process group */
	F_PUT = 19,		/* text: octal mode, space, path */
	F_DATA = 20,		/* a part of the file */
	F_CLOSE = 21,		/* the file is complete */
	F_GET = 22,		/* text: path */

	/* Sequenced, from the agent. */
	F_STDOUT = 32,
	F_STDERR = 33,
	F_EXIT = 34,		/* u32 wait status, u32 errno */
};

/* link.c */
void link_open(const char *path);
int link_fd(void);
void link_input(void);
bool link_can_send(void);
void link_send(uint8_t type, uint32_t id, const void *payload, size_t length);
int link_flush(void);

/* jobs.c */
void jobs_frame(uint8_t type, uint32_t id, const uint8_t *payload, size_t length);
void jobs_reset(void);
void jobs_reap(void);
void jobs_pump(void);
bool jobs_want_spare(void);
int jobs_prepare(void);
struct pollfd;
size_t jobs_poll(struct pollfd *fds, size_t room);

static inline void put_le32(uint8_t *to, uint32_t value)
{
	for (int i = 0; i < 4; i++)
		to[i] = value >> (8 * i);
}

static inline uint32_t get_le32(const uint8_t *from)
{
	return from[0] | from[1] << 8 | from[2] << 16 | (uint32_t)from[3] << 24;
}

#endif
