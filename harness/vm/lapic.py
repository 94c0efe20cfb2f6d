# SPDX-License-Identifier: MIT
"""Local APICs: which vCPU has which id, and what the writes to their registers mean.

Sources: Intel SDM volume 3, 12.6.1 (interrupt command register) and 12.6.2 (destinations).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from harness.errors import HarnessError
from harness.vm.machine import Machine
from harness.vm.trace import Write

BASE = 0xFEE0_0000
"""Where every vCPU sees its own local APIC, unless its kernel moved it; Linux does not."""
SPAN = 0x10_0000
"""Bytes from BASE on that are interrupt messages beside the registers in the first page."""
REGISTERS = 0x1000
"""Bytes from BASE on that are registers; an access there is to the vCPU's own local APIC."""
ICR_LOW, ICR_HIGH = BASE + 0x300, BASE + 0x310
LDR = BASE + 0xD0
BROADCAST = 0xFF

FLAT = 0xF
"""Model of logical destinations in which each bit is one local APIC."""

DELIVERY = ("fixed", "lowest", "smi", "reserved", "nmi", "init", "startup", "extint")
SHORTHANDS = ("", "self", "all", "all-but-self")


@dataclass(frozen=True)
class Ipi:
    """One inter-processor interrupt: ``source`` is the vCPU that sent it.

    ``destination`` is an 8-bit APIC id, or with ``logical`` a mask of logical ids; it means nothing
    with a ``shorthand`` ("self", "all", "all-but-self"), and is None where it was never set in the
    stretch. ``delivery`` is one of DELIVERY; only fixed and lowest have a meaningful ``vector``.
    """

    source: int
    destination: int | None
    shorthand: str
    vector: int
    delivery: str
    logical: bool = False

    def targets(self, apic_ids: Sequence[int], logical_ids: Sequence[int] = ()) -> frozenset[int]:
        """Return the APIC ids that it goes to; ``apic_ids`` are those of all vCPUs, by index.

        One without a known destination may go to anyone. Raises HarnessError for a logical one
        without ``logical_ids``: who that is stands in registers that no trace shows.
        """
        everyone, own = frozenset(apic_ids), frozenset({apic_ids[self.source]})
        if self.shorthand:
            return {"self": own, "all": everyone, "all-but-self": everyone - own}[self.shorthand]
        if self.destination in {None, BROADCAST}:
            return everyone
        assert self.destination is not None
        if not self.logical:
            return everyone & {self.destination}
        if not logical_ids:
            raise HarnessError(f"the destination of {self} is logical")
        return frozenset(
            apic for apic, mask in zip(apic_ids, logical_ids, strict=True) if mask & self.destination
        )

    @property
    def name(self) -> str:
        """What it is, in a word or two."""
        return f"vector {self.vector:#x}" if self.delivery in {"fixed", "lowest"} else self.delivery.upper()


def ipis(writes: Iterable[Write]) -> list[Ipi]:
    """Return the IPIs that vCPUs sent by ``writes``, in their order.

    A write to the low half of the ICR sends one; the high half, written before by the same vCPU,
    says where to. Only xAPIC mode is seen: in x2APIC mode, and with KVM's own APICs, the registers
    are no memory of QEMU's. Assert and de-assert of INIT are told as two. Where the low half is the
    first that a vCPU writes at all, the high half came just before the stretch began: that IPI was
    under way, could go to anyone, and is left out.
    """
    high: dict[int, int] = {}
    wrote: set[int] = set()
    found = []
    for write in writes:
        if write.vcpu is None:
            continue
        first = write.vcpu not in wrote
        wrote.add(write.vcpu)
        if write.address == ICR_HIGH:
            high[write.vcpu] = write.value >> 24 & 0xFF
        elif write.address == ICR_LOW:
            ipi = _ipi(write, high.get(write.vcpu))
            if not first or ipi.shorthand:
                found.append(ipi)
    return found


def _ipi(low: Write, destination: int | None) -> Ipi:
    assert low.vcpu is not None
    return Ipi(
        source=low.vcpu,
        destination=destination,
        shorthand=SHORTHANDS[low.value >> 18 & 3],
        vector=low.value & 0xFF,
        delivery=DELIVERY[low.value >> 8 & 7],
        logical=bool(low.value >> 11 & 1),
    )


def apic_ids(machine: Machine) -> tuple[int, ...]:
    """Return every vCPU's initial APIC id, by QEMU's index. Raises QmpError."""
    cpus = sorted(machine.qmp.execute("query-cpus-fast"), key=lambda cpu: int(cpu["cpu-index"]))
    return tuple(
        int(machine.qmp.execute("qom-get", path=cpu["qom-path"], property="apic-id")) for cpu in cpus
    )


def logical_ids(machine: Machine, apic_ids: Sequence[int]) -> tuple[int, ...]:
    """Return every local APIC's logical id, a mask, by vCPU index; 0 where its kernel gave it none.

    Raises HarnessError when QEMU does not tell, or where they are clusters and not a flat mask.
    """
    found = []
    for apic in apic_ids:
        told = str(machine.qmp.execute("human-monitor-command", command_line=f"info lapic {apic}"))
        match = re.search(r"DFR 0x([0-9a-f]+) LDR 0x([0-9a-f]+)", told)
        if match is None:
            raise HarnessError(f"QEMU does not tell the logical id of local APIC {apic}", details=told)
        if int(match[1], 16) != FLAT and int(match[2], 16):
            raise HarnessError(f"the logical ids of local APIC {apic} are clusters, which nobody reads here")
        found.append(int(match[2], 16))
    return tuple(found)
