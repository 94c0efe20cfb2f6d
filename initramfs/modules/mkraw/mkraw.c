// SPDX-License-Identifier: GPL-2.0-only
/*
 * mkraw: what a kernel can do if it wants to, for a test in user space. Nothing
 * loads it but who asks for it.
 *
 *	echo COMMAND >/proc/mkraw; cat /proc/mkraw	(value=0x...)
 *
 * Commands are the payload's (initramfs/payload/commands.c): peek ADDRESS
 * [WIDTH], poke ADDRESS VALUE [WIDTH], in PORT [WIDTH], out PORT VALUE [WIDTH],
 * ipi APIC-ID COMMAND [COUNT], rdmsr NUMBER, wrmsr NUMBER VALUE, wbinvd [COUNT],
 * fault.
 */
#include <linux/io.h>
#include <linux/irqflags.h>
#include <linux/module.h>
#include <linux/proc_fs.h>
#include <linux/seq_file.h>
#include <linux/uaccess.h>

#define APIC_BASE_ADDRESS	0xfee00000
#define FIRST_DEVICE		0xfe000000ULL	/* above this there is no RAM on any PC */
#define LAST_DEVICE		0xffffffffULL
#define ICR_LOW			0x300
#define ICR_HIGH		0x310
#define ICR_BUSY		(1 << 12)
#define MAX_WIDTH		8

static u64 result;

static int access_memory(u64 address, u64 width, u64 *value, bool write)
{
	bool device = address >= FIRST_DEVICE && address <= LAST_DEVICE;
	void *at;

	if (!width)
		width = MAX_WIDTH;
	if (width > MAX_WIDTH || (width & (width - 1)) || address & (width - 1))
		return -EINVAL;
	/* A device takes an access of its own width only. */
	at = device ? (void __force *)ioremap(address, width) :
		      memremap(address, width, MEMREMAP_WB);
	if (!at)
		return -ENOMEM;
	switch (width) {
#define CASE(type) \
	case sizeof(type): \
		if (write) \
			WRITE_ONCE(*(type *)at, *value); \
		else \
			*value = READ_ONCE(*(type *)at); \
		break
	CASE(u8);
	CASE(u16);
	CASE(u32);
	CASE(u64);
#undef CASE
	}
	if (device)
		iounmap((void __iomem __force *)at);
	else
		memunmap(at);
	return 0;
}

static int access_port(u16 port, u64 width, u64 *value, bool write)
{
	switch (width) {
	case 0:
	case 1:
		write ? outb(*value, port) : (void)(*value = inb(port));
		return 0;
	case 2:
		write ? outw(*value, port) : (void)(*value = inw(port));
		return 0;
	case 4:
		write ? outl(*value, port) : (void)(*value = inl(port));
		return 0;
	}
	return -EINVAL;
}

static int send_ipi(u32 to, u32 command, u64 count)
{
	void __iomem *apic = ioremap(APIC_BASE_ADDRESS, PAGE_SIZE);
	unsigned long flags;

	if (!apic)
		return -ENOMEM;
	for (count = count ? count : 1; count; count--) {
		local_irq_save(flags);
		while (readl(apic + ICR_LOW) & ICR_BUSY)
			cpu_relax();
		writel(to << 24, apic + ICR_HIGH);
		writel(command, apic + ICR_LOW);
		local_irq_restore(flags);
	}
	iounmap(apic);
	return 0;
}

static void access_msr(u32 msr, u64 *value, bool write)
{
	u32 low = *value, high = *value >> 32;

	if (write) {
		asm volatile("wrmsr" :: "c"(msr), "a"(low), "d"(high));
		return;
	}
	asm volatile("rdmsr" : "=a"(low), "=d"(high) : "c"(msr));
	*value = (u64)high << 32 | low;
}

static void triple_fault(void)
{
	struct { u16 limit; u64 base; } __packed nothing = { 0, 0 };

	asm volatile("lidt %0; int3" :: "m"(nothing));
}

static int run(const char *name, int count, const u64 *with)
{
	u64 value = 0;
	int err = 0;

	if (!strcmp(name, "peek") && count >= 1) {
		err = access_memory(with[0], with[1], &value, false);
	} else if (!strcmp(name, "poke") && count >= 2) {
		value = with[1];
		err = access_memory(with[0], with[2], &value, true);
	} else if (!strcmp(name, "in") && count >= 1) {
		err = access_port(with[0], with[1], &value, false);
	} else if (!strcmp(name, "out") && count >= 2) {
		value = with[1];
		err = access_port(with[0], with[2], &value, true);
	} else if (!strcmp(name, "ipi") && count >= 2) {
		err = send_ipi(with[0], with[1], with[2]);
	} else if (!strcmp(name, "rdmsr") && count == 1) {
		access_msr(with[0], &value, false);
	} else if (!strcmp(name, "wrmsr") && count == 2) {
		value = with[1];
		access_msr(with[0], &value, true);
	} else if (!strcmp(name, "wbinvd")) {
		for (value = count ? with[0] : 1; value; value--)
			asm volatile("wbinvd" ::: "memory");
	} else if (!strcmp(name, "fault")) {
		triple_fault();
	} else {
		err = -EINVAL;
	}
	result = value;
	return err;
}

static ssize_t raw_write(struct file *file, const char __user *buf, size_t count, loff_t *pos)
{
	char line[100], name[10];
	u64 with[3] = { 0 };
	int found, err;

	if (count >= sizeof(line))
		return -EINVAL;
	if (copy_from_user(line, buf, count))
		return -EFAULT;
	line[count] = 0;
	found = sscanf(line, "%9s %lli %lli %lli", name, &with[0], &with[1], &with[2]);
	if (found < 1)
		return -EINVAL;
	err = run(name, found - 1, with);
	return err ? err : count;
}

static int raw_show(struct seq_file *seq, void *v)
{
	seq_printf(seq, "value=%#llx\n", result);
	return 0;
}

static int raw_open(struct inode *inode, struct file *file)
{
	return single_open(file, raw_show, NULL);
}

static const struct proc_ops raw_ops = {
	.proc_open = raw_open,
	.proc_read = seq_read,
	.proc_write = raw_write,
	.proc_lseek = seq_lseek,
	.proc_release = single_release,
};

static int __init mkraw_init(void)
{
	return proc_create("mkraw", 0600, NULL, &raw_ops) ? 0 : -ENOMEM;
}

static void __exit mkraw_exit(void)
{
	remove_proc_entry("mkraw", NULL);
}

module_init(mkraw_init);
module_exit(mkraw_exit);
MODULE_LICENSE("GPL");
MODULE_DESCRIPTION("Memory, ports, MSRs and interrupts of whoever they are, for tests");
