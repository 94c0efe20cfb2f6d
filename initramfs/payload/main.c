// SPDX-License-Identifier: GPL-2.0-only
/*
 * The payload: a few KB that start where a spawned kernel would, say what they
 * were told, exchange messages, stop when they are asked to, and do wrong on
 * command (commands.c). It runs on one CPU.
 *
 *	earlyprintk=serial,PORT or payload.port=PORT	the serial line, an I/O address
 *	payload.run=COMMAND:ARGUMENT...			a command to begin with; any number
 */
#include "payload.h"

void payload(const void *zero_page);

static void run_from_command_line(void)
{
	const char *from = command_line, *value;
	static char line[1024];
	size_t size;

	while (*from) {
		value = after(from, "payload.run=");
		while (*from && *from != ' ')
			from++;
		size = value ? (size_t)(from - value) : 0;
		while (*from == ' ')
			from++;
		if (!size || size >= sizeof(line))
			continue;
		copy(line, value, size);
		line[size] = 0;
		for (char *c = line; *c; c++)
			if (*c == ':')
				*c = ' ';
		command(line);
	}
}

/* Do what is asked for, for ever. */
void serve(void)
{
	bool refused = false;
	char *line;

	for (;;) {
		while (serial_line(&line))
			command(line);
		if (!hold)
			receive();
		if (halt_asked() && !refuse)
			park(false);
		if (halt_asked() && !refused) {
			say("halt refused\n");
			refused = true;
		}
		if (serial_quiet())
			rest();
	}
}

void payload(const void *zero_page)
{
	machine_init();
	reach((u64)zero_page, 4096);
	read_boot_params(zero_page);
	messages_init();
	say("ready\n");
	run_from_command_line();
	serve();
}
