# SPDX-License-Identifier: MIT
"""What a machine consists of, and QEMU's command line for it."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from harness.definition import SerialLine
from harness.errors import HarnessError, UsageError
from harness.vm import serialport
from harness.vm.accel import Accel

NETDEV = "ssh"
"""What QEMU calls the network; harness.vm.ssh forwards ports to it."""
NETWORK = (
    *("-netdev", f"user,id={NETDEV},restrict=on,ipv6=off"),
    # Without a boot ROM, which is a Debian package of its own; below the slots of serial ports.
    *("-device", f"virtio-net-pci,netdev={NETDEV},romfile=,addr=0x7"),
)


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
    cores: int | None = None
    """Cores of a socket; all are in one where it is None. Odd numbers leave gaps in the APIC ids."""
    network: bool = False
    """Whether there is a network card, by which the harness can reach the guest, and the guest nobody."""


def program(name: str, spec: MachineSpec) -> str:
    """Return QEMU's path. Raises HarnessError when it, or a file of ``spec``, is not there."""
    qemu = shutil.which(name)
    if qemu is None:
        raise HarnessError(f"{name} is not on PATH", advice="run: sudo apt-get install qemu-system-x86")
    for file in filter(None, (spec.kernel, spec.initrd)):
        if not file.is_file():
            raise UsageError(f"there is no file {file} to boot", advice="build it first")
    return qemu


def _smp(spec: MachineSpec) -> str:
    if spec.cores is None:
        return str(spec.vcpus)
    return f"{spec.vcpus},sockets={spec.vcpus // spec.cores},cores={spec.cores},threads=1"


def arguments(
    spec: MachineSpec,
    accel: Accel,
    ram: int,
    lines: Sequence[Path],
    qmp: int,
    *,
    private: bool = False,
    incoming: bool = False,
) -> list[str]:
    """Return QEMU's arguments; ``ram`` and ``qmp`` are descriptors that it inherits, ``lines`` pipes.

    A guest that resets or powers off stays as it is, paused, for a look at what it left. With
    ``private`` the guest's writes do not reach the file ``ram``; with ``incoming`` QEMU waits for
    the state of a frozen machine.
    """
    size = f"{spec.memory_mib}M"
    share = "off" if private else "on"
    memory = f"memory-backend-file,id=ram,size={size},mem-path=/proc/self/fd/{ram},share={share}"
    result = ["-no-user-config", "-nodefaults", "-display", "none"]
    result += ["-machine", f"{spec.machine},memory-backend=ram", "-accel", accel.argument]
    result += ["-cpu", spec.cpu, "-smp", _smp(spec), "-m", size, "-object", memory]
    result += ["-S", "-incoming", "defer"] if incoming else []
    result += ["-action", "reboot=shutdown,shutdown=pause"]
    # A machine's clock stands still while it is frozen, as its kernels' clocks do.
    result += ["-rtc", "base=utc,clock=vm"]
    result += ["-chardev", f"socket,id=qmp,fd={qmp}", "-mon", "chardev=qmp,mode=control"]
    for serial, pipe in zip(spec.serial, lines, strict=True):
        result += serialport.arguments(serial, pipe)
    result += NETWORK if spec.network else ()
    result += ["-kernel", str(spec.kernel), "-append", spec.cmdline]
    return result + (["-initrd", str(spec.initrd)] if spec.initrd else [])
