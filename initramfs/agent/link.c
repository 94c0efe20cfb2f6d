// SPDX-License-Identifier: GPL-2.0-only
/* A reliable, ordered link of frames over a tty: go-back-N with a window. */
#include <err.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/utsname.h>
#include <termios.h>
#include <time.h>
#include <unistd.h>

#include "agent.h"

#define FLAG		0x7e
#define ESCAPE		0x7d
#define FLIP		0x20
#define HEADER		9
#define BODY_MAX	(HEADER + PAYLOAD_MAX + 4)

#define RESEND_MS	500
#define RESEND_MAX_MS	4000

struct frame {
	uint8_t type;
	uint32_t id;
	uint16_t length;
	uint8_t payload[PAYLOAD_MAX];
};

static int tty;
static uint32_t crc_table[256];

static uint32_t session;		/* 0: none yet */
static uint16_t expected;		/* sequence of the next frame from the host */
static bool ack_due, nak_due, nak_sent;

static struct frame window[WINDOW];
static uint16_t base, next;		/* oldest unacknowledged, and next to send */
static int64_t resend_at;
static int resend_ms;

static uint8_t body[BODY_MAX];
static size_t body_length;
static bool escaped, too_long;

static int64_t now_ms(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return now.tv_sec * 1000LL + now.tv_nsec / 1000000;
}

static uint32_t crc32(const uint8_t *data, size_t length)
{
	uint32_t crc = ~0U;

	while (length--)
		crc = crc_table[(crc ^ *data++) & 0xff] ^ crc >> 8;
	return ~crc;
}

void link_open(const char *path)
{
	struct termios raw;

	for (uint32_t i = 0; i < 256; i++) {
		uint32_t crc = i;

		for (int bit = 0; bit < 8; bit++)
			crc = crc >> 1 ^ (crc & 1 ? 0xedb88320 : 0);
		crc_table[i] = crc;
	}
	/* Without O_NONBLOCK a port without carrier blocks the open. */
	tty = open(path, O_RDWR | O_NOCTTY | O_NONBLOCK | O_CLOEXEC);
	if (tty < 0 || tcgetattr(tty, &raw))
		err(1, "%s", path);
	cfmakeraw(&raw);
	raw.c_cflag |= CLOCAL | CREAD;
	cfsetspeed(&raw, B115200);
	/*
	 * What came in until now was echoed, and one ^S among it stopped all output: it never drains
	 * (TCSAFLUSH would wait for that).
	 */
	if (tcsetattr(tty, TCSANOW, &raw) || tcflush(tty, TCIOFLUSH))
		err(1, "%s", path);
	/* Writes block: the UART's pace is the agent's pace. */
	fcntl(tty, F_SETFL, fcntl(tty, F_GETFL) & ~O_NONBLOCK);
	link_send(F_NOSESSION, 0, NULL, 0);
}

int link_fd(void)
{
	return tty;
}

static uint8_t *escape(uint8_t *to, uint8_t byte)
{
	if (byte == FLAG || byte == ESCAPE) {
		*to++ = ESCAPE;
		byte ^= FLIP;
	}
	*to++ = byte;
	return to;
}

static void transmit(const struct frame *frame, uint16_t sequence)
{
	uint8_t plain[BODY_MAX], wire[2 * BODY_MAX + 2], *end = wire, *from = wire;
	size_t length = HEADER + frame->length;

	plain[0] = frame->type;
	plain[1] = sequence;
	plain[2] = sequence >> 8;
	plain[3] = expected;
	plain[4] = expected >> 8;
	put_le32(plain + 5, frame->id);
	memcpy(plain + HEADER, frame->payload, frame->length);
	put_le32(plain + length, crc32(plain, length));
	length += 4;

	*end++ = FLAG;
	for (size_t i = 0; i < length; i++)
		end = escape(end, plain[i]);
	*end++ = FLAG;
	while (from < end) {
		ssize_t done = write(tty, from, end - from);

		if (done < 0 && errno != EINTR && errno != EAGAIN)
			err(1, "write");
		if (done > 0)
			from += done;
	}
	/* Every frame says what has been received. */
	ack_due = false;
}

static void start_timer(int ms)
{
	resend_ms = ms;
	resend_at = now_ms() + ms;
}

bool link_can_send(void)
{
	return session && (uint16_t)(next - base) < WINDOW;
}

/* Sequenced frames may be sent only while link_can_send() says so. */
void link_send(uint8_t type, uint32_t id, const void *payload, size_t length)
{
	static struct frame unsequenced;
	struct frame *frame = type < F_TEXT ? &unsequenced : &window[next % WINDOW];

	frame->type = type;
	frame->id = id;
	frame->length = length;
	if (length)
		memcpy(frame->payload, payload, length);
	if (type < F_TEXT) {
		transmit(frame, 0);
		return;
	}
	if (base == next)
		start_timer(RESEND_MS);
	transmit(frame, next++);
}

static void resend(void)
{
	for (uint16_t sequence = base; sequence != next; sequence++)
		transmit(&window[sequence % WINDOW], sequence);
}

/* Returns milliseconds until it wants to be called again, or -1 for never. */
int link_flush(void)
{
	int pending, left;

	if (nak_due && !nak_sent) {
		link_send(F_NAK, 0, NULL, 0);
		nak_sent = true;
	}
	nak_due = false;
	if (ack_due)
		link_send(F_ACK, 0, NULL, 0);
	if (base == next)
		return -1;
	left = resend_at - now_ms();
	if (left > 0)
		return left;
	/* What has not left yet is not lost; a polled UART is slow. */
	if (ioctl(tty, TIOCOUTQ, &pending) || !pending) {
		resend();
		start_timer(2 * resend_ms > RESEND_MAX_MS ? RESEND_MAX_MS : 2 * resend_ms);
	} else {
		start_timer(resend_ms);
	}
	return resend_ms;
}

static void begin(uint32_t nonce)
{
	struct utsname name;
	uint8_t payload[4 + sizeof(name.release)];

	/* A repeated hello must not end what its first copy began. */
	if (nonce != session) {
		jobs_reset();
		session = nonce;
		expected = base = next = 0;
		nak_sent = false;
	}
	uname(&name);
	put_le32(payload, PROTOCOL_VERSION);
	memcpy(payload + 4, name.release, strlen(name.release));
	link_send(F_WELCOME, session, payload, 4 + strlen(name.release));
}

static void acknowledged(uint16_t until)
{
	if ((uint16_t)(until - base) > (uint16_t)(next - base) || until == base)
		return;
	base = until;
	start_timer(RESEND_MS);
}

static void receive(const uint8_t *data, size_t length)
{
	uint8_t type = data[0];
	uint16_t sequence = data[1] | data[2] << 8;
	uint32_t id = get_le32(data + 5);

	if (type == F_HELLO) {
		begin(id);
		return;
	}
	if (!session) {
		link_send(F_NOSESSION, 0, NULL, 0);
		return;
	}
	acknowledged(data[3] | data[4] << 8);
	if (type == F_NAK)
		resend();
	if (type < F_TEXT)
		return;
	ack_due = true;
	if (sequence != expected) {
		/* A gap is news; a frame seen before is only to be acknowledged. */
		nak_due |= (int16_t)(sequence - expected) > 0;
		return;
	}
	expected++;
	nak_sent = false;
	jobs_frame(type, id, data + HEADER, length - HEADER);
}

static void end_of_body(void)
{
	size_t length = body_length - 4;

	if (!body_length)
		return;		/* between two frames */
	if (!too_long && !escaped && body_length >= HEADER + 4 &&
	    get_le32(body + length) == crc32(body, length))
		receive(body, length);
	else if (session)
		nak_due = true;
}

void link_input(void)
{
	uint8_t bytes[4096];
	ssize_t count = read(tty, bytes, sizeof(bytes));

	if (count < 0 && (errno == EINTR || errno == EAGAIN))
		return;
	if (count <= 0)
		errx(1, "the line is closed");
	for (ssize_t i = 0; i < count; i++) {
		if (bytes[i] == FLAG) {
			end_of_body();
			body_length = 0;
			escaped = too_long = false;
		} else if (bytes[i] == ESCAPE && !escaped) {
			escaped = true;
		} else if (body_length == sizeof(body)) {
			too_long = true;
		} else {
			body[body_length++] = escaped ? bytes[i] ^ FLIP : bytes[i];
			escaped = false;
		}
	}
}
