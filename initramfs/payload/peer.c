// SPDX-License-Identifier: GPL-2.0-only
/* Commands that talk to other kernels, well or badly. */
#include "commands.h"

/* Data of at most MESSAGE_MAX bytes in place of its digits; -1 when it is none */
static int parse_hex(char *word)
{
	u8 *to = (u8 *)word;
	char byte[5] = "0x";
	u64 value;
	int size = 0;

	if (same(word, "-"))
		return 0;
	for (; *word; word += 2, size++) {
		byte[2] = word[0];
		byte[3] = word[1];
		if (!word[1] || size == MESSAGE_MAX || !number(byte, &value))
			return -1;
		to[size] = value;
	}
	return size;
}

static const char *send_data(int as_slot, struct arguments *with, int first)
{
	int size = parse_hex(with->word[first + 2]);

	if (size < 0)
		return "data is at most 232 bytes in hexadecimal, or -";
	return send(as_slot, with->value[first], with->value[first + 1], with->value[first + 3],
		    with->word[first + 2], size);
}

const char *do_send(struct arguments *with)
{
	return send_data(-1, with, 0);
}

const char *do_forge(struct arguments *with)
{
	return send_data(with->value[0], with, 1);
}

const char *do_recv(struct arguments *with)
{
	u32 count = receive();

	(void)with;
	put("ok recv");
	field("count", count);
	end_line();
	return "";
}

const char *do_hold(struct arguments *with)
{
	hold = with->value[0];
	return NULL;
}

const char *do_echo(struct arguments *with)
{
	echo = with->value[0];
	return NULL;
}

const char *do_ipi(struct arguments *with)
{
	u64 count = with->count > 2 ? with->value[2] : 1;

	while (count--)
		send_ipi(with->value[0], with->value[1]);
	return NULL;
}

const char *do_flood(struct arguments *with)
{
	if (with->value[2] < 8 || with->value[2] > MESSAGE_MAX)
		return "a message of a flood has 8 to 232 bytes";
	return flood(with->value[0], with->value[1], with->value[2], with->value[3], with->value[4]);
}

const char *do_tally(struct arguments *with)
{
	const struct tally *tally = tally_of(with->value[0]);

	put("ok tally");
	field("count", tally->count);
	field("missing", tally->missing);
	field("back", tally->back);
	field("torn", tally->torn);
	end_line();
	return "";
}

const char *do_tamper(struct arguments *with)
{
	u32 taken = tamper(with->value[0], with->value[1], with->value[2], with->value[3]);

	put("ok tamper");
	field("taken", taken);
	end_line();
	return "";
}
