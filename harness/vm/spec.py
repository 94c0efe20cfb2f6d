# SPDX-License-Identifier: MIT
"""What a machine consists of, and QEMU's command line for it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from harness.definition import SerialLine
from harness.vm.accel import Accel

IO_BASES = (0x3F8, 0x2F8, 0x3E8, 0x2E8)
"""Where a PC has its serial ports 0 to 3."""


@dataclass(frozen=True)
class MachineSpec:
    """What QEMU is to run. ``machine`` and ``cpu`` are QEMU's ``-machine`` and ``-cpu``."""

    kernel: Path
    initrd: Path | None
    cmdline: str
    vcpus: int
    memory_mib: int
    machine: str
    cpu: str
    serial: tuple[SerialLine, ...]


def arguments(spec: MachineSpec, accel: Accel, ram: int, lines: Sequence[Path], qmp: int) -> list[str]:
    """Return QEMU's arguments; ``ram`` and ``qmp`` are descriptors that it inherits, ``lines`` pipes.

    A guest that resets or powers off stays as it is, paused, for a look at what it left.
    """
    size = f"{spec.memory_mib}M"
    memory = f"memory-backend-file,id=ram,size={size},mem-path=/proc/self/fd/{ram},share=on"
    result = ["-no-user-config", "-nodefaults", "-display", "none"]
    result += ["-machine", f"{spec.machine},memory-backend=ram", "-accel", accel.argument]
    result += ["-cpu", spec.cpu, "-smp", str(spec.vcpus), "-m", size, "-object", memory]
    result += ["-action", "reboot=shutdown,shutdown=pause"]
    result += ["-chardev", f"socket,id=qmp,fd={qmp}", "-mon", "chardev=qmp,mode=control"]
    for serial, pipe in zip(spec.serial, lines, strict=True):
        chardev = f"port{serial.port}"
        place = f"index={serial.port},iobase={IO_BASES[serial.port]:#x},irq={serial.irq}"
        result += ["-chardev", f"pipe,id={chardev},path={pipe}"]
        result += ["-device", f"isa-serial,chardev={chardev},{place}"]
    result += ["-kernel", str(spec.kernel), "-append", spec.cmdline]
    return result + (["-initrd", str(spec.initrd)] if spec.initrd else [])
