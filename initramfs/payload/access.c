// SPDX-License-Identifier: GPL-2.0-only
/* Commands that read and write memory, ports and MSRs, whoever they belong to. */
#include "commands.h"

#define MAX_DUMP	256

static const char *access(u64 address, u64 width, u64 *value, bool write)
{
	if (!width)
		width = 8;
	if (!reach(address, width))
		return "this address cannot be mapped";
	switch (width) {
#define CASE(type) \
	case sizeof(type): \
		if (write) \
			*(volatile type *)address = *value; \
		else \
			*value = *(volatile type *)address; \
		return NULL
	CASE(u8);
	CASE(u16);
	CASE(u32);
	CASE(u64);
#undef CASE
	}
	return "a width is 1, 2, 4 or 8";
}

const char *do_peek(struct arguments *with)
{
	u64 value;
	const char *wrong = access(with->value[0], with->value[1], &value, false);

	if (wrong)
		return wrong;
	put("ok peek");
	field("value", value);
	end_line();
	return "";
}

const char *do_poke(struct arguments *with)
{
	return access(with->value[0], with->value[2], &with->value[1], true);
}

const char *do_dump(struct arguments *with)
{
	if (with->value[1] > MAX_DUMP || !reach(with->value[0], with->value[1]))
		return "this is too much, or cannot be mapped";
	put("ok dump data=");
	put_hex((const void *)with->value[0], with->value[1]);
	end_line();
	return "";
}

const char *do_fill(struct arguments *with)
{
	if (!reach(with->value[0], with->value[1]))
		return "these addresses cannot be mapped";
	set((void *)with->value[0], with->value[2], with->value[1]);
	return NULL;
}

static const char *access_port(u16 port, u64 width, u64 *value, bool write)
{
	switch (width ? width : 1) {
#define CASE(width, letter) \
	case width: \
		if (write) \
			out##letter(port, *value); \
		else \
			*value = in##letter(port); \
		return NULL
	CASE(1, b);
	CASE(2, w);
	CASE(4, l);
#undef CASE
	}
	return "a port's width is 1, 2 or 4";
}

const char *do_in(struct arguments *with)
{
	u64 value;
	const char *wrong = access_port(with->value[0], with->value[1], &value, false);

	if (wrong)
		return wrong;
	put("ok in");
	field("value", value);
	end_line();
	return "";
}

const char *do_out(struct arguments *with)
{
	return access_port(with->value[0], with->value[2], &with->value[1], true);
}

const char *do_rdmsr(struct arguments *with)
{
	put("ok rdmsr");
	field("value", read_msr(with->value[0]));
	end_line();
	return "";
}

const char *do_wrmsr(struct arguments *with)
{
	write_msr(with->value[0], with->value[1]);
	return NULL;
}

const char *do_wbinvd(struct arguments *with)
{
	u64 count = with->count ? with->value[0] : 1;

	while (count--)
		asm volatile("wbinvd" ::: "memory");
	return NULL;
}
