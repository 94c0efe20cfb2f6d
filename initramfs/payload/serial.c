// SPDX-License-Identifier: GPL-2.0-only
/*
 * The serial line: lines out, lines in, both by polling.
 *
 * What is said has the form "payload: WORD KEY=VALUE ...", numbers in hexadecimal.
 */
#include "payload.h"

#define IER	1
#define FCR	2
#define LCR	3
#define MCR	4
#define LSR	5
#define LSR_DATA	0x01
#define LSR_ROOM	0x20

/* A line that is being typed keeps the CPU awake for so many looks. */
#define PATIENCE	2000

static u16 port;			/* 0: there is none, nothing is said */
static char typed[1024];
static size_t length;
static u32 looks;

void serial_open(u16 address)
{
	port = address;
	if (!port)
		return;
	outb(port + IER, 0);
	outb(port + LCR, 0x80);		/* divisor 1: 115200 */
	outb(port, 1);
	outb(port + 1, 0);
	outb(port + LCR, 0x03);		/* 8N1 */
	outb(port + FCR, 0x07);
	outb(port + MCR, 0x03);
}

/*
 * A port on PCI is away for a moment while a host that boots asks for the size
 * of its window: then all ones are read, and nothing of it is true.
 */
static u8 line_status(void)
{
	u8 status = inb(port + LSR);

	return status == 0xff ? 0 : status;
}

static void put_char(char c)
{
	if (!port)
		return;
	while (!(line_status() & LSR_ROOM))
		;
	outb(port, c);
}

void put(const char *text)
{
	for (; *text; text++) {
		if (*text == '\n')
			put_char('\r');
		put_char(*text);
	}
}

void put_hex(const void *data, size_t size)
{
	static const char digits[] = "0123456789abcdef";
	const u8 *byte = data;

	for (; size--; byte++) {
		put_char(digits[*byte >> 4]);
		put_char(digits[*byte & 15]);
	}
}

void say(const char *what)
{
	put("payload: ");
	put(what);
}

void field(const char *name, u64 value)
{
	int shift = 60;

	put(" ");
	put(name);
	put("=0x");
	while (shift && !(value >> shift))
		shift -= 4;
	for (; shift >= 0; shift -= 4)
		put_char("0123456789abcdef"[value >> shift & 15]);
}

void end_line(void)
{
	put("\n");
}

/* Take what was typed; true when *line is a whole one, until the next call. */
bool serial_line(char **line)
{
	char c;

	if (!port)
		return false;
	while (line_status() & LSR_DATA) {
		c = inb(port);
		looks = PATIENCE;
		if (c == '\r' || c == '\n') {
			typed[length] = 0;
			*line = typed;
			if (!length)
				continue;
			length = 0;
			return true;
		}
		/* What is too long is cut, and answered as an error. */
		if (length < sizeof(typed) - 1)
			typed[length++] = c;
	}
	return false;
}

/* Whether nobody is about to type */
bool serial_quiet(void)
{
	return !looks || !--looks;
}
