// SPDX-License-Identifier: GPL-2.0-only
/* The CPU: page tables, segments, interrupts, local APIC. */
#include "payload.h"

#define APIC_BASE_MSR	0x1b
#define APIC_X2		(1 << 10)
#define X2APIC_MSR	0x800
#define APIC_ADDRESS	0xfee00000

#define APIC_ID		0x020
#define APIC_TPR	0x080
#define APIC_EOI	0x0b0
#define APIC_SVR	0x0f0
#define APIC_ICR	0x300
#define APIC_ICR_HIGH	0x310
#define APIC_TIMER	0x320
#define APIC_LVT0	0x350
#define APIC_LVT1	0x360
#define APIC_COUNT	0x380
#define APIC_DIVIDE	0x3e0
#define APIC_MASKED	(1 << 16)
#define APIC_PERIODIC	(1 << 17)
#define APIC_BUSY	(1 << 12)

#define TICKS_PER_SECOND	1000
#define QEMU_LAPIC_HZ		1000000000

#define PAGE_PRESENT_WRITE	3
#define PAGE_UNCACHED		0x18
#define PAGE_LARGE		0x80
#define GIGABYTE		(1ULL << 30)
#define NR_GIGABYTES		16	/* that can be mapped at once */

#define CR4_LA57		(1 << 12)

#define NMI_VECTOR		2
#define NR_EXCEPTIONS		32

struct gate {
	u16 low, segment, flags, middle;
	u32 high, reserved;
};

struct frame {
	u64 vector, error, rip, cs, flags, rsp, ss;
};

u32 interrupts[256];

static u64 level5[512] __attribute__((aligned(4096)));
static u64 level4[512] __attribute__((aligned(4096)));
static u64 level3[512] __attribute__((aligned(4096)));
static u64 level2[NR_GIGABYTES][512] __attribute__((aligned(4096)));
static u32 mapped;
static struct gate idt[256];

static bool map(u64 gigabyte)
{
	u64 address = gigabyte * GIGABYTE, *table = level2[mapped];
	int i;

	if (gigabyte >= 512)
		return false;
	if (level3[gigabyte])
		return true;
	if (mapped == NR_GIGABYTES)
		return false;
	mapped++;
	for (i = 0; i < 512; i++, address += 0x200000) {
		table[i] = address | PAGE_LARGE | PAGE_PRESENT_WRITE;
		/* Above this there is no RAM on any PC. */
		if (address >= 0xfe000000 && address < 4 * GIGABYTE)
			table[i] |= PAGE_UNCACHED;
	}
	level3[gigabyte] = (u64)table | PAGE_PRESENT_WRITE;
	return true;
}

/* Map memory one to one if it is not yet; false beyond 512 GB, and after 16 different ones */
bool reach(u64 address, u64 size)
{
	u64 last = address + (size ? size - 1 : 0), gigabyte;

	if (last < address || last / GIGABYTE - address / GIGABYTE > NR_GIGABYTES)
		return false;
	for (gigabyte = address / GIGABYTE; gigabyte <= last / GIGABYTE; gigabyte++)
		if (!map(gigabyte))
			return false;
	return true;
}

static void init_paging(void)
{
	u64 cr4, top = (u64)level4;

	level4[0] = (u64)level3 | PAGE_PRESENT_WRITE;
	level5[0] = (u64)level4 | PAGE_PRESENT_WRITE;
	reach((u64)image_start, bss_end - image_start);
	reach(APIC_ADDRESS, 4096);
	asm volatile("mov %%cr4, %0" : "=r"(cr4));
	if (cr4 & CR4_LA57)
		top = (u64)level5;
	asm volatile("mov %0, %%cr3" :: "r"(top) : "memory");
}

bool x2apic(void)
{
	return read_msr(APIC_BASE_MSR) & APIC_X2;
}

static u32 apic_read(u32 offset)
{
	if (x2apic())
		return read_msr(X2APIC_MSR + offset / 16);
	return *(volatile u32 *)(APIC_ADDRESS + (u64)offset);
}

static void apic_write(u32 offset, u32 value)
{
	if (x2apic())
		write_msr(X2APIC_MSR + offset / 16, value);
	else
		*(volatile u32 *)(APIC_ADDRESS + (u64)offset) = value;
}

u32 apic_id(void)
{
	u32 id = apic_read(APIC_ID);

	return x2apic() ? id : id >> 24;
}

/* What the command's bits mean is the local APIC's: vector, delivery mode, shorthand */
void send_ipi(u32 to, u32 command)
{
	if (x2apic()) {
		asm volatile("mfence" ::: "memory");
		write_msr(X2APIC_MSR + APIC_ICR / 16, (u64)to << 32 | command);
		return;
	}
	while (apic_read(APIC_ICR) & APIC_BUSY)
		;
	apic_write(APIC_ICR_HIGH, to << 24);
	apic_write(APIC_ICR, command);
}

static void init_apic(void)
{
	apic_write(APIC_SVR, 0x100 | SPURIOUS_VECTOR);
	apic_write(APIC_TPR, 0);
	apic_write(APIC_LVT0, APIC_MASKED);
	apic_write(APIC_LVT1, APIC_MASKED);
}

/* The beat; the rate was told, or is QEMU's */
static void start_timer(void)
{
	u64 hz = boot_info.lapic_hz ? boot_info.lapic_hz : QEMU_LAPIC_HZ;

	apic_write(APIC_DIVIDE, 0xb);		/* by 1 */
	apic_write(APIC_TIMER, APIC_PERIODIC | TIMER_VECTOR);
	apic_write(APIC_COUNT, hz / TICKS_PER_SECOND);
}

static void init_interrupts(void)
{
	struct descriptor table = { sizeof(idt) - 1, (u64)idt };
	u64 entry = (u64)interrupt_entries;
	int i;

	for (i = 0; i < 256; i++, entry += 16)
		idt[i] = (struct gate){
			.low = entry, .segment = 8, .flags = 0x8e00,
			.middle = entry >> 16, .high = entry >> 32,
		};
	asm volatile("lidt %0" :: "m"(table));
}

static void init_segments(void)
{
	static const u64 gdt[] = { 0, 0x00af9b000000ffff, 0x00cf93000000ffff };
	struct descriptor table = { sizeof(gdt) - 1, (u64)gdt };

	load_segments(&table);
}

/* From here on everything but boot_info is in place; read it, then rest(). */
void machine_init(void)
{
	init_segments();
	init_interrupts();
	init_paging();
	init_apic();
}

void interrupt(const struct frame *frame);

void interrupt(const struct frame *frame)
{
	u8 vector = frame->vector;
	u64 address;

	interrupts[vector]++;
	if (vector >= NR_EXCEPTIONS) {
		if (vector != SPURIOUS_VECTOR)
			apic_write(APIC_EOI, 0);
		return;
	}
	if (vector == NMI_VECTOR)
		return;
	asm volatile("mov %%cr2, %0" : "=r"(address));
	say("trap");
	field("vector", vector);
	field("error", frame->error);
	field("at", frame->rip - (u64)image_start);
	field("address", address);
	end_line();
	if (!in_command())
		hang();
	put("error trap\n");
	go_on(serve);
}

/* Wait for the next interrupt, a tick at the latest. */
void rest(void)
{
	static bool ticking;

	if (!ticking) {
		start_timer();
		ticking = true;
	}
	asm volatile("sti; hlt; cli" ::: "memory");
}

void hang(void)
{
	for (;;)
		asm volatile("cli; hlt");
}

void triple_fault(void)
{
	struct descriptor nothing = { 0, 0 };

	asm volatile("lidt %0; int3" :: "m"(nothing));
	hang();
}
