# SPDX-License-Identifier: MIT
"""Faults from outside: NMI, machine check, flipped bits of memory."""

from __future__ import annotations

from harness.errors import HarnessError, UsageError
from harness.vm.gdbstub import attached
from harness.vm.lapic import BASE, apic_ids
from harness.vm.machine import Machine
from harness.vm.ram import ram_of

_MESSAGE_NMI = 4 << 8
"""Data of an interrupt message: delivery mode NMI, edge. Source: Intel SDM volume 3, 12.11.2."""
_VALID, _UNCORRECTED, _ENABLED = 1 << 63, 1 << 61, 1 << 60
_CORRUPT = 1 << 57
"""Bits of a bank's status. Source: Intel SDM volume 3, 17.3.2.2."""
_IN_PROGRESS, _RESTART_VALID = 1 << 2, 1 << 0
"""Bits of the global status. Source: Intel SDM volume 3, 17.3.1.2."""


def nmi(machine: Machine, vcpu: int | None = None) -> None:
    """Send a non-maskable interrupt to one vCPU, or to all of them, whichever kernel's they are.

    QEMU's own command always means all. So for one vCPU it is a device's interrupt message, written
    through the gdbstub, which stops the machine for some milliseconds. Raises GdbError, QmpError.
    """
    machine.steps.outside(f"NMI on {'all vCPUs' if vcpu is None else f'vCPU {vcpu}'}")
    if vcpu is None:
        machine.qmp.execute("inject-nmi")
        return
    ids = apic_ids(machine)
    if not 0 <= vcpu < len(ids):
        raise UsageError(f"the machine has no vCPU {vcpu}", advice=f"choose 0 to {len(ids) - 1}")
    if ids[vcpu] > 0xFE:
        raise UsageError(f"an interrupt message cannot name the APIC id {ids[vcpu]}")
    with attached(machine) as gdb:
        gdb.write_physical(BASE | ids[vcpu] << 12, _MESSAGE_NMI.to_bytes(4, "little"))


def machine_check(machine: Machine, vcpu: int, *, bank: int = 4, fatal: bool = True) -> None:
    """Raise a machine check on one vCPU: an uncorrected error in ``bank``, or a corrected one.

    A kernel without CONFIG_X86_MCE leaves CR4.MCE clear, and an uncorrected error is then a triple
    fault: the *whole* machine is reset, that is, wrecked. A corrected error makes no interrupt; it
    stands in the bank for a kernel that polls. Raises HarnessError when QEMU refuses.
    """
    status = _VALID | _ENABLED | (_UNCORRECTED | _CORRUPT if fatal else 0)
    overall = _IN_PROGRESS | _RESTART_VALID if fatal else 0
    command = f"mce {vcpu} {bank} {status:#x} {overall:#x} 0 0"
    machine.steps.outside(f"QEMU's monitor: {command}")
    answer = str(machine.qmp.execute("human-monitor-command", command_line=command)).strip()
    # The reset is the very effect that it has on such a kernel.
    if answer and "triple fault" not in answer:
        raise HarnessError(f"QEMU refused a machine check on vCPU {vcpu}: {answer}")


def flip_bit(machine: Machine, address: int, bit: int) -> None:
    """Flip ``bit`` (0 to 7) of the byte at a guest-physical address in RAM.

    The guest sees it at its next access. That is true for data only: TCG runs what it translated
    before, so a flip in code shows only where the code was not run yet, or after its translation
    was dropped; with ``flip_code_bit`` TCG notices. A guest that writes the same byte at the same
    moment may lose its write or undo the flip. Raises HarnessError when there is no RAM.
    """
    _check_bit(bit)
    machine.steps.outside(f"bit {bit} of the byte at {address:#x} of RAM is flipped")
    ram = ram_of(machine)
    ram.write(address, bytes([ram.read(address, 1)[0] ^ 1 << bit]))


def flip_code_bit(machine: Machine, address: int, bit: int) -> None:
    """Flip a bit as ``flip_bit`` does, through the gdbstub: TCG translates the code there anew.

    The machine stops for some milliseconds meanwhile.
    """
    _check_bit(bit)
    machine.steps.outside(f"bit {bit} of the byte at {address:#x} of RAM is flipped, as gdb writes it")
    with attached(machine) as gdb:
        gdb.write_physical(address, bytes([ram_of(machine).read(address, 1)[0] ^ 1 << bit]))


def _check_bit(bit: int) -> None:
    if not 0 <= bit <= 7:
        raise UsageError(f"a byte has no bit {bit}")
