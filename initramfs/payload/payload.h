/* SPDX-License-Identifier: GPL-2.0-only */
/* The payload: what is started where a spawned kernel would be, see main.c. */
#ifndef PAYLOAD_H
#define PAYLOAD_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef uint8_t u8;
typedef uint16_t u16;
typedef uint32_t u32;
typedef uint64_t u64;

#define ARRAY_SIZE(array)	(sizeof(array) / sizeof((array)[0]))
#define READ_ONCE(x)		(*(const volatile __typeof__(x) *)&(x))
#define WRITE_ONCE(x, value)	(*(volatile __typeof__(x) *)&(x) = (value))
#define load_acquire(p)		__atomic_load_n(p, __ATOMIC_ACQUIRE)
#define store_release(p, value)	__atomic_store_n(p, value, __ATOMIC_RELEASE)

#pragma GCC visibility push(hidden)

/*
 * What a spawned kernel of the reference series is told by its host, setup_data
 * of type SETUP_MULTIKERNEL; the layout is the series'.
 */
#define SETUP_MULTIKERNEL	0x4d4b

struct mk_boot_info {
	u32 version, id, nr_cpus, slot;
	u64 start, size;
	u64 realmode;
	u64 shared;
	u32 tsc_khz, cpu_khz;
	u64 lapic_hz;
	u64 wall_tsc, wall_ns;
	u32 apic_ids[64];
};

/* head.S */
extern const char image_start[], bss_end[];
extern const char interrupt_entries[];
__attribute__((noreturn)) void go_on(void (*function)(void));

struct descriptor {
	u16 limit;
	u64 base;
} __attribute__((packed));

void load_segments(const struct descriptor *gdt);

/* serial.c */
void serial_open(u16 port);
bool serial_line(char **line);
bool serial_quiet(void);
void put(const char *text);
void put_hex(const void *data, size_t size);
void say(const char *what);
void field(const char *name, u64 value);
void end_line(void);

/* words.c */
char *next_word(char **rest, char separator);
bool same(const char *one, const char *other);
const char *after(const char *text, const char *prefix);
bool number(const char *word, u64 *value);
void copy(void *to, const void *from, size_t size);
void set(void *to, u8 value, size_t size);

/* boot.c */
extern struct mk_boot_info boot_info;	/* id is 0 where nothing was told */
extern const char *command_line;
void read_boot_params(const void *zero_page);

/* machine.c */
#define TIMER_VECTOR		0x40
#define DOORBELL_VECTOR		0xea
#define SPURIOUS_VECTOR		0xff

extern u32 interrupts[256];		/* how many came, by vector */
void machine_init(void);
bool reach(u64 address, u64 size);
u32 apic_id(void);
bool x2apic(void);
void send_ipi(u32 to, u32 command);
void rest(void);
__attribute__((noreturn)) void hang(void);
__attribute__((noreturn)) void triple_fault(void);

/* messages.c */
#define MESSAGE_MAX		232

#define TAMPER_FLIPS		2000000000	/* minutes */

struct tally {
	u32 count, missing, back, torn, next;
};

extern bool hold, echo;
void messages_init(void);
u32 receive(void);
const char *send(int as_slot, u32 kernel, u32 type, u32 subtype, const void *data, u32 size);
const char *flood(u32 kernel, u32 count, u32 size, u32 tag, u32 patience);
const struct tally *tally_of(u32 tag);
u32 tamper(u32 kernel, u32 type, u32 count, u32 size);
bool halt_asked(void);
__attribute__((noreturn)) void park(bool crashed);

/* commands.c */
extern bool refuse;
void command(char *line);
bool in_command(void);

/* main.c */
void serve(void);

static inline void outb(u16 port, u8 value)
{
	asm volatile("outb %0, %1" :: "a"(value), "Nd"(port));
}

static inline u8 inb(u16 port)
{
	u8 value;

	asm volatile("inb %1, %0" : "=a"(value) : "Nd"(port));
	return value;
}

static inline void outw(u16 port, u16 value)
{
	asm volatile("outw %0, %1" :: "a"(value), "Nd"(port));
}

static inline u16 inw(u16 port)
{
	u16 value;

	asm volatile("inw %1, %0" : "=a"(value) : "Nd"(port));
	return value;
}

static inline void outl(u16 port, u32 value)
{
	asm volatile("outl %0, %1" :: "a"(value), "Nd"(port));
}

static inline u32 inl(u16 port)
{
	u32 value;

	asm volatile("inl %1, %0" : "=a"(value) : "Nd"(port));
	return value;
}

static inline u64 read_msr(u32 msr)
{
	u32 low, high;

	asm volatile("rdmsr" : "=a"(low), "=d"(high) : "c"(msr));
	return (u64)high << 32 | low;
}

static inline void write_msr(u32 msr, u64 value)
{
	asm volatile("wrmsr" :: "c"(msr), "a"((u32)value), "d"((u32)(value >> 32)));
}

#pragma GCC visibility pop

#endif
