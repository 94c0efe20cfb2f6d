# SPDX-License-Identifier: MIT
"""Who wrote to whose device, from a traced stretch of register writes.

A serial line belongs to the kernel that the topology gives it to, a local APIC's registers to the
CPU itself, everything else to the host kernel: nobody else of a multikernel machine was given it.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

from harness.model import Evidence, Finding, Region
from harness.oracle.interrupts import SHOWN
from harness.vm.lapic import BASE, SPAN
from harness.vm.trace import Write

SERIAL_SPAN = 8
"""I/O ports of an 8250."""
MEMORY = 0x1_0000
"""From here on an address is no I/O port."""

PORTS = (
    (0x00, 0x0F, "DMA controller"),
    (0x20, 0x21, "PIC"),
    (0x40, 0x43, "PIT"),
    (0x60, 0x60, "keyboard controller"),
    (0x61, 0x61, "PIT gate and speaker"),
    (0x64, 0x64, "keyboard controller (resets the machine)"),
    (0x70, 0x77, "RTC and CMOS memory"),
    (0x80, 0x80, "delay port"),
    (0x81, 0x8F, "DMA pages"),
    (0x92, 0x92, "system control port (resets the machine)"),
    (0xA0, 0xA1, "PIC"),
    (0xB2, 0xB3, "APM"),
    (0xC0, 0xDF, "DMA controller"),
    (0x1F0, 0x1F7, "IDE"),
    (0x3B0, 0x3DF, "VGA"),
    (0x4D0, 0x4D1, "PIC trigger modes"),
    (0x510, 0x51B, "firmware configuration"),
    (0x600, 0x63F, "ACPI power management"),
    (0xCF8, 0xCF8, "PCI configuration address"),
    (0xCF9, 0xCF9, "reset control (resets the machine)"),
    (0xCFC, 0xCFF, "PCI configuration data"),
    (0xFEC0_0000, 0xFEC0_0FFF, "IO-APIC"),
    (0xFED0_0000, 0xFED0_03FF, "HPET"),
)
"""First and last I/O port, or address, of a PC's devices. Sources: QEMU 7.2 `info mtree` of -machine pc;
Intel 82371AB (PIIX4) datasheet. What is not here has QEMU's own name for its registers."""
HARMLESS = "delay port"
"""Writes to it do nothing but take time, so nobody owns it."""


@dataclass(frozen=True)
class Touch:
    """A write to a device: by which kernel, and whose it is."""

    kernel: str
    owner: str
    device: str
    write: Write

    def __str__(self) -> str:
        write = self.write
        return (
            f"{self.kernel} (vCPU {write.vcpu}): {write.value:#0{2 + 2 * write.size}x} to"
            f" {'port' if write.address < MEMORY else 'address'} {write.address:#x}, {self.device}"
        )


def touches(
    writes: Iterable[Write], kernels: Sequence[str], lines: Mapping[str, int], host: str
) -> list[Touch]:
    """Return all writes to devices by vCPUs, local APICs left out, in their order.

    ``kernels`` says who has each vCPU, by index; ``lines`` the first I/O port of each serial line,
    by its name in the topology; ``host`` is the host's name.
    """
    serial = [(Region(port, SERIAL_SPAN), line) for line, port in lines.items() if port]
    names: dict[tuple[int, str], tuple[str, str]] = {}
    found = []
    for write in writes:
        if write.vcpu is None or BASE <= write.address < BASE + SPAN:
            continue
        key = write.address, write.region
        if key not in names:
            names[key] = _device(write, serial, host)
        owner, device = names[key]
        if device != HARMLESS:
            found.append(Touch(kernels[write.vcpu], owner, device, write))
    return found


def foreign(touched: Iterable[Touch], lent: Collection[str] = ()) -> tuple[Finding, ...]:
    """Return a finding for each device that a kernel wrote to and does not own.

    ``lent`` are devices of the host's that others may use, by name.
    """
    groups: dict[tuple[str, str, str], list[Touch]] = {}
    for touch in touched:
        if touch.kernel != touch.owner and touch.device not in lent:
            groups.setdefault((touch.kernel, touch.owner, touch.device), []).append(touch)
    return tuple(
        Finding(
            f"{kernel} wrote {len(group)} times to {owner}'s {device}",
            (Evidence(f"the first of {len(group)}", "\n".join(map(str, group[:SHOWN]))),),
        )
        for (kernel, owner, device), group in groups.items()
    )


def _device(write: Write, serial: Sequence[tuple[Region, str]], host: str) -> tuple[str, str]:
    """Return who owns what ``write`` went to, and what it is."""
    byte = Region(write.address, 1)
    for ports, line in serial:
        if ports.contains(byte):
            return line.partition(".")[0], f"serial line {line}"
    named = next((name for first, last, name in PORTS if first <= write.address <= last), None)
    return host, named or f"device {write.region!r}"
