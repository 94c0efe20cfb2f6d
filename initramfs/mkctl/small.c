// SPDX-License-Identifier: GPL-2.0-only
/* The sub-commands that are one system call each. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdio.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <linux/reboot.h>
#include <linux/serial.h>

#include "mkctl.h"

/* multikernel CMD ARG: one reboot(2) with a pointer to one int */
int cmd_multikernel(int argc, char **argv)
{
	struct { int value; } arg;
	unsigned int cmd;

	if (argc != 2)
		usage("multikernel wants CMD ARG");
	cmd = parse_number("command", argv[0], 0xffffffff);
	arg.value = parse_number("argument", argv[1], 0x7fffffff);
	if (syscall(SYS_reboot, LINUX_REBOOT_MAGIC1, LINUX_REBOOT_MAGIC2, cmd,
		    &arg) < 0)
		fail_errno("reboot cmd=%#x arg=%d", cmd, arg.value);
	printf("cmd=%#x\narg=%d\n", cmd, arg.value);
	return 0;
}

/*
 * write-once SRC DEST: one write(2) and no more, since a file that takes
 * commands takes each write as one, and cat(1) repeats what failed.
 */
int cmd_write_once(int argc, char **argv)
{
	ssize_t written;
	size_t size;
	void *data;
	int fd;

	if (argc != 2)
		usage("write-once wants SRC DEST");
	data = read_file(argv[0], &size);
	fd = open(argv[1], O_WRONLY | O_CLOEXEC);
	if (fd < 0)
		fail_errno("open %s", argv[1]);
	written = write(fd, data, size);
	if (written < 0)
		fail_errno("write %zu bytes to %s", size, argv[1]);
	printf("size=%zu\nwritten=%zd\n", size, written);
	return 0;
}

/* Opens a serial port for the two below, and asks what the driver knows of it */
static int open_serial(const char *device, struct serial_struct *serial)
{
	int fd = open(device, O_RDWR | O_NOCTTY | O_NONBLOCK | O_CLOEXEC);

	if (fd < 0)
		fail_errno("open %s", device);
	if (ioctl(fd, TIOCGSERIAL, serial) < 0)
		fail_errno("TIOCGSERIAL %s", device);
	return fd;
}

/*
 * serial-irq DEVICE [IRQ=0]: with irq 0 the 8250 driver polls the port from a
 * timer; another number is for a port whose interrupt the driver guessed wrong.
 * EBUSY means that somebody has the port open already.
 */
int cmd_serial_irq(int argc, char **argv)
{
	struct serial_struct serial;
	int fd, before, irq = 0;

	if (argc < 1 || argc > 2)
		usage("serial-irq wants DEVICE [IRQ]");
	if (argc == 2)
		irq = parse_number("irq", argv[1], 255);
	fd = open_serial(argv[0], &serial);
	before = serial.irq;
	serial.irq = irq;
	if (ioctl(fd, TIOCSSERIAL, &serial) < 0)
		fail_errno("TIOCSSERIAL %s irq=%d", argv[0], irq);
	printf("device=%s\nport=%#x\ntype=%d\nirq_before=%d\nirq=%d\n", argv[0],
	       serial.port, serial.type, before, irq);
	return 0;
}

/*
 * serial-port DEVICE ADDRESS: moves the device to the port at that I/O address,
 * to be polled. The driver then probes it, so that its FIFO is used.
 */
int cmd_serial_port(int argc, char **argv)
{
	struct serial_struct serial;
	int fd, before;

	if (argc != 2)
		usage("serial-port wants DEVICE ADDRESS");
	fd = open_serial(argv[0], &serial);
	before = serial.port;
	serial.port = parse_number("address", argv[1], 0xfff8);
	serial.port_high = 0;
	serial.irq = 0;
	serial.type = PORT_UNKNOWN;
	if (ioctl(fd, TIOCSSERIAL, &serial) < 0)
		fail_errno("TIOCSSERIAL %s port=%#x", argv[0], serial.port);
	if (ioctl(fd, TIOCSERCONFIG) < 0)
		fail_errno("TIOCSERCONFIG %s", argv[0]);
	if (ioctl(fd, TIOCGSERIAL, &serial) < 0)
		fail_errno("TIOCGSERIAL %s", argv[0]);
	if (serial.type == PORT_UNKNOWN)
		fail("%s: there is no serial port at %#x", argv[0], serial.port);
	printf("device=%s\nport_before=%#x\nport=%#x\ntype=%d\nirq=%d\n", argv[0],
	       before, serial.port, serial.type, serial.irq);
	return 0;
}
