// SPDX-License-Identifier: GPL-2.0-only
/*
 * The boot parameters: said as they are, and kept as far as they are needed.
 * Offsets are of struct boot_params, Documentation/arch/x86/zero-page.rst.
 */
#include "payload.h"

#define E820_ENTRIES	0x1e8
#define E820_TABLE	0x2d0
#define E820_MAX	128
#define RAMDISK		0x218
#define RAMDISK_SIZE	0x21c
#define CMD_LINE	0x228
#define SUBARCH		0x23c
#define SETUP_DATA	0x250
#define RSDP		0x070
#define EXT_RAMDISK	0x0c0
#define EXT_RAMDISK_SIZE	0x0c4
#define EXT_CMD_LINE	0x0c8

#define SETUP_DATA_MAX	64		/* more are a ring */

struct e820_entry {
	u64 addr;
	u64 size;
	u32 type;
} __attribute__((packed));

struct setup_data {
	u64 next;
	u32 type;
	u32 len;
	u8 data[];
};

struct mk_boot_info boot_info;
const char *command_line = "";

static u32 read_u32(const void *zero_page, int offset)
{
	u32 value;

	copy(&value, zero_page + offset, sizeof(value));
	return value;
}

static u64 read_u64(const void *zero_page, int low, int high)
{
	return (u64)read_u32(zero_page, high) << 32 | read_u32(zero_page, low);
}

/* The last one wins, as with any other parameter. */
static u16 find_port(const char *word)
{
	char digits[8];
	u64 port = 0, found;
	const char *value;
	size_t size;

	while (*word) {
		value = after(word, "payload.port=");
		if (!value)
			value = after(word, "earlyprintk=serial,");
		for (size = 0; value && size < sizeof(digits) - 1; size++) {
			if (!value[size] || value[size] == ' ' || value[size] == ',')
				break;
			digits[size] = value[size];
		}
		if (value) {
			digits[size] = 0;
			if (number(digits, &found))
				port = found;
		}
		while (*word && *word != ' ')
			word++;
		while (*word == ' ')
			word++;
	}
	return port;
}

static void say_e820(const void *zero_page)
{
	u8 count = *(const u8 *)(zero_page + E820_ENTRIES);
	struct e820_entry entry;
	int i;

	for (i = 0; i < count && i < E820_MAX; i++) {
		copy(&entry, zero_page + E820_TABLE + i * sizeof(entry), sizeof(entry));
		say("e820");
		field("start", entry.addr);
		field("size", entry.size);
		field("type", entry.type);
		end_line();
	}
}

static void say_instance(void)
{
	u32 i;

	say("instance");
	field("version", boot_info.version);
	field("id", boot_info.id);
	field("slot", boot_info.slot);
	field("start", boot_info.start);
	field("size", boot_info.size);
	field("realmode", boot_info.realmode);
	field("shared", boot_info.shared);
	field("tsc_khz", boot_info.tsc_khz);
	field("lapic_hz", boot_info.lapic_hz);
	field("cpus", boot_info.nr_cpus);
	end_line();
	for (i = 0; i < boot_info.nr_cpus && i < ARRAY_SIZE(boot_info.apic_ids); i++) {
		say("granted");
		field("apic_id", boot_info.apic_ids[i]);
		end_line();
	}
}

static void say_setup_data(u64 address)
{
	const struct setup_data *data;
	int i;

	for (i = 0; address && i < SETUP_DATA_MAX; i++, address = data->next) {
		say("setup_data");
		field("address", address);
		if (!reach(address, sizeof(*data))) {
			put(" out of reach");
			end_line();
			return;
		}
		data = (const void *)address;
		field("type", data->type);
		field("length", data->len);
		end_line();
		if (data->type == SETUP_MULTIKERNEL && data->len >= sizeof(boot_info) &&
		    reach(address, sizeof(*data) + data->len))
			copy(&boot_info, data->data, sizeof(boot_info));
	}
}

void read_boot_params(const void *zero_page)
{
	u64 line = read_u64(zero_page, CMD_LINE, EXT_CMD_LINE);
	u64 initrd = read_u64(zero_page, RAMDISK, EXT_RAMDISK);
	u64 initrd_size = read_u64(zero_page, RAMDISK_SIZE, EXT_RAMDISK_SIZE);

	if (line && reach(line, 2048))
		command_line = (const char *)line;
	serial_open(find_port(command_line));

	say("started");
	field("image", (u64)image_start);
	field("end", (u64)bss_end);
	field("boot_params", (u64)zero_page);
	field("apic_id", apic_id());
	field("x2apic", x2apic());
	end_line();
	say("cmdline ");
	put(command_line);
	end_line();
	say_e820(zero_page);
	say("initrd");
	field("start", initrd);
	field("size", initrd_size);
	end_line();
	say("platform");
	field("subarch", read_u32(zero_page, SUBARCH));
	field("rsdp", read_u64(zero_page, RSDP, RSDP + 4));
	end_line();
	say_setup_data(read_u64(zero_page, SETUP_DATA, SETUP_DATA + 4));
	if (boot_info.id)
		say_instance();
}
