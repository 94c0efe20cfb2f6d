// SPDX-License-Identifier: GPL-2.0-only
/*
 * mkctl: drives the multikernel interfaces from inside a guest. Results are
 * lines of key=value; a failure is one line on stderr and exit status 1, wrong
 * usage exit status 2.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "mkctl.h"

static const struct command {
	const char *name;
	int (*run)(int argc, char **argv);
	const char *synopsis;
} commands[] = {
	{ "load-file", cmd_load_file, "KERNEL INITRD|- CMDLINE FLAGS" },
	{ "unload-file", cmd_unload_file, "FLAGS" },
	{ "load-v1", cmd_load_v1,
	  "VMLINUX INITRD|- CMDLINE BASE SIZE [--low START:SIZE] [--ram START:SIZE]... [--rsdp ADDRESS] [--flags N]" },
	{ "unload-v1", cmd_unload_v1, "" },
	{ "multikernel", cmd_multikernel, "CMD ARG" },
	{ "write-once", cmd_write_once, "SRC DEST" },
	{ "serial-irq", cmd_serial_irq, "DEVICE [IRQ]" },
	{ "serial-port", cmd_serial_port, "DEVICE ADDRESS" },
	{ "calls", cmd_calls, "SECONDS" },
	{ "race", cmd_race, "SEED MS" },
	{ "hold", cmd_hold, "FOLDER" },
	{ "shoot", cmd_shoot, "COUNT" },
	{ "pipe", cmd_pipe, "round|one-way SIZE COUNT CPU CPU" },
	{ "heartbeat", cmd_heartbeat, "FILE [INTERVAL_MS]" },
	{ "heartbeat-read", cmd_heartbeat_read, "FILE" },
	{ "heartbeat-reset", cmd_heartbeat_reset, "FILE" },
	{ "canary", cmd_canary, "MIB" },
};

void usage(const char *why)
{
	size_t i;

	fprintf(stderr, "mkctl: %s\n", why);
	for (i = 0; i < ARRAY_SIZE(commands); i++)
		fprintf(stderr, "usage: mkctl %s %s\n", commands[i].name,
			commands[i].synopsis);
	exit(2);
}

int main(int argc, char **argv)
{
	size_t i;
	int status;

	if (argc < 2)
		usage("no sub-command");
	for (i = 0; i < ARRAY_SIZE(commands); i++) {
		if (strcmp(argv[1], commands[i].name))
			continue;
		status = commands[i].run(argc - 2, argv + 2);
		if (fflush(stdout))
			fail_errno("write to stdout");
		return status;
	}
	usage("unknown sub-command");
}
