# SPDX-License-Identifier: MIT
"""Serial ports: the four that a PC has on ISA, and as many more as there are PCI slots.

A kernel without PCI drives a PCI port as well as an ISA one, once it knows the I/O address that
the firmware gave it; nobody else has to touch it.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import msgspec

from harness.definition import SerialLine
from harness.errors import HarnessError
from harness.vm.qmp import Qmp

FIRST_SLOT = 8
"""PCI slot of port 0. QEMU's own devices are below, and a bus has 32 slots."""


def arguments(serial: SerialLine, pipe: Path) -> list[str]:
    """Return QEMU's arguments for one serial line that ``pipe`` carries."""
    port = serial.port
    if serial.bus == "pci":
        chardev, device = f"pci{port}", "pci-serial"
        place = f"id=serial{port},addr={FIRST_SLOT + port:#x}"
    else:
        chardev, device = f"port{port}", "isa-serial"
        place = f"index={port},iobase={serial.address:#x},irq={serial.irq}"
    return [
        *("-chardev", f"pipe,id={chardev},path={pipe}"),
        *("-device", f"{device},chardev={chardev},{place}"),
    ]


def located(lines: Sequence[SerialLine], qmp: Qmp) -> tuple[SerialLine, ...]:
    """Return ``lines`` with the I/O addresses that the PCI ports have now. Raises HarnessError."""
    if all(serial.bus == "isa" for serial in lines):
        return tuple(lines)
    addresses = {
        device["qdev_id"]: region["address"]
        for bus in qmp.execute("query-pci")
        for device in bus["devices"]
        for region in device["regions"]
        if region["type"] == "io" and region["address"] > 0
    }
    return tuple(
        serial if serial.bus == "isa" else msgspec.structs.replace(serial, io=_address(serial, addresses))
        for serial in lines
    )


def _address(serial: SerialLine, addresses: dict[str, int]) -> int:
    name = f"serial{serial.port}"
    if name not in addresses:
        raise HarnessError(
            f"the firmware gave PCI serial port {serial.port} ({serial.line}) no address",
            advice="ask after the host kernel has booted, or use fewer ports",
        )
    return addresses[name]
