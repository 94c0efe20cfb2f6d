// SPDX-License-Identifier: GPL-2.0-only
/*
 * Commands, one a line: numbers are decimal or 0x, data is hexadecimal. The
 * answer's last line is "ok COMMAND KEY=VALUE..." or "error COMMAND WHY"; those after
 * which there is no payload any more say "payload: COMMAND" before they begin.
 */
#include "commands.h"

bool refuse;		/* to stop when the host asks for it */

static bool running;

static const char *do_refuse(struct arguments *with)
{
	refuse = with->value[0];
	return NULL;
}

static const char *do_beat(struct arguments *with)
{
	(void)with;
	put("ok beat");
	field("count", interrupts[TIMER_VECTOR]);
	field("address", (u64)&interrupts[TIMER_VECTOR]);
	end_line();
	return "";
}

static const char *do_interrupts(struct arguments *with)
{
	int i;

	(void)with;
	for (i = 0; i < 256; i++) {
		if (!interrupts[i])
			continue;
		say("interrupt");
		field("vector", i);
		field("count", interrupts[i]);
		end_line();
	}
	return NULL;
}

static const char *do_cpus(struct arguments *with)
{
	(void)with;
	put("ok cpus");
	field("self", apic_id());
	field("granted", boot_info.nr_cpus);
	end_line();
	return "";
}

static const char *do_stop(struct arguments *with)
{
	(void)with;
	park(false);
}

static const char *do_crash(struct arguments *with)
{
	(void)with;
	park(true);
}

static const char *do_hang(struct arguments *with)
{
	(void)with;
	say("hang\n");
	hang();
}

static const char *do_spin(struct arguments *with)
{
	(void)with;
	say("spin\n");
	for (;;)
		asm volatile("cli; pause");
	return NULL;
}

static const char *do_fault(struct arguments *with)
{
	(void)with;
	say("fault\n");
	triple_fault();
}

static const char *do_help(struct arguments *with);

static const struct command {
	const char *name;
	const char *(*run)(struct arguments *with);
	u8 least, most;			/* arguments */
	u8 data;			/* which of them is no number, counted from 1 */
	const char *arguments;
} commands[] = {
	{ "peek", do_peek, 1, 2, 0, "ADDRESS [WIDTH]" },
	{ "poke", do_poke, 2, 3, 0, "ADDRESS VALUE [WIDTH]" },
	{ "dump", do_dump, 2, 2, 0, "ADDRESS COUNT" },
	{ "fill", do_fill, 3, 3, 0, "ADDRESS COUNT BYTE" },
	{ "in", do_in, 1, 2, 0, "PORT [WIDTH]" },
	{ "out", do_out, 2, 3, 0, "PORT VALUE [WIDTH]" },
	{ "rdmsr", do_rdmsr, 1, 1, 0, "NUMBER" },
	{ "wrmsr", do_wrmsr, 2, 2, 0, "NUMBER VALUE" },
	{ "wbinvd", do_wbinvd, 0, 1, 0, "[COUNT]" },
	{ "send", do_send, 3, 4, 3, "KERNEL TYPE DATA|- [SUBTYPE]" },
	{ "forge", do_forge, 4, 5, 4, "SLOT KERNEL TYPE DATA|- [SUBTYPE]: send as another" },
	{ "recv", do_recv, 0, 0, 0, ": take what was held" },
	{ "hold", do_hold, 1, 1, 0, "0|1: leave messages in their rings" },
	{ "echo", do_echo, 1, 1, 0, "0|1: answer messages" },
	{ "flood", do_flood, 5, 5, 0, "KERNEL COUNT SIZE TAG MS: numbered messages, as mkmsg's; MS for a full ring" },
	{ "tally", do_tally, 1, 1, 0, "TAG: what came of a flood" },
	{ "tamper", do_tamper, 4, 4, 0, "KERNEL TYPE COUNT SIZE: change each length while it is read" },
	{ "refuse", do_refuse, 1, 1, 0, "0|1: to stop when asked" },
	{ "ipi", do_ipi, 2, 3, 0, "APIC-ID COMMAND [COUNT]: of the local APIC" },
	{ "beat", do_beat, 0, 0, 0, "" },
	{ "interrupts", do_interrupts, 0, 0, 0, "" },
	{ "cpus", do_cpus, 0, 0, 0, "" },
	{ "stop", do_stop, 0, 0, 0, ": and tell the host" },
	{ "crash", do_crash, 0, 0, 0, ": and tell the host" },
	{ "hang", do_hang, 0, 0, 0, ": halt with interrupts off" },
	{ "spin", do_spin, 0, 0, 0, ": with interrupts off" },
	{ "fault", do_fault, 0, 0, 0, ": three times, which resets the machine" },
	{ "help", do_help, 0, 0, 0, "" },
};

static const char *do_help(struct arguments *with)
{
	size_t i;

	(void)with;
	for (i = 0; i < ARRAY_SIZE(commands); i++) {
		say("help ");
		put(commands[i].name);
		put(" ");
		put(commands[i].arguments);
		end_line();
	}
	return NULL;
}

static const char *run(const struct command *command, char *rest)
{
	struct arguments with = {};
	bool is_number;

	while (*rest && with.count < MAX_ARGUMENTS) {
		with.word[with.count] = next_word(&rest, ' ');
		if (!*with.word[with.count])
			break;
		is_number = number(with.word[with.count], &with.value[with.count]);
		if (!is_number && with.count + 1 != command->data)
			return "this is no number";
		with.count++;
	}
	if (*rest || with.count < command->least || with.count > command->most)
		return command->arguments;
	return command->run(&with);
}

void command(char *line)
{
	const char *name = next_word(&line, ' '), *wrong = "unknown, try help";
	size_t i;

	running = true;
	for (i = 0; i < ARRAY_SIZE(commands); i++)
		if (same(name, commands[i].name))
			wrong = run(&commands[i], line);
	running = false;
	if (wrong && !*wrong)
		return;
	put(wrong ? "error " : "ok ");
	put(name);
	if (wrong) {
		put(" ");
		put(wrong);
	}
	end_line();
}

bool in_command(void)
{
	return running;
}
