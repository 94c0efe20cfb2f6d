# SPDX-License-Identifier: MIT
"""Local APICs: which vCPU has which id, and what the writes to their registers mean.

Sources: Intel SDM volume 3, 12.6.1 (interrupt command register) and 12.6.2 (destinations).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from harness.errors import HarnessError
from harness.vm.machine import Machine
from harness.vm.trace import Write

BASE = 0xFEE0_0000
"""Where every vCPU sees its own local APIC, unless its kernel moved it; Linux does not."""
SPAN = 0x10_0000
"""Bytes from BASE on that are interrupt messages beside the registers in the first page."""
ICR_LOW, ICR_HIGH = BASE + 0x300, BASE + 0x310
BROADCAST = 0xFF

DELIVERY = ("fixed", "lowest", "smi", "reserved", "nmi", "init", "startup", "extint")
SHORTHANDS = ("", "self", "all", "all-but-self")


@dataclass(frozen=True)
class Ipi:
    """One inter-processor interrupt: ``source`` is the vCPU that sent it.

    ``destination`` is an 8-bit APIC id, or with ``logical`` a mask of logical ids; it means nothing
    with a ``shorthand`` ("self", "all", "all-but-self"), and is None where it was set before the
    stretch. ``delivery`` is one of DELIVERY; only fixed and lowest have a meaningful ``vector``.
    """

    source: int
    destination: int | None
    shorthand: str
    vector: int
    delivery: str
    logical: bool = False

    def targets(self, apic_ids: Sequence[int]) -> frozenset[int]:
        """Return the APIC ids that it goes to; ``apic_ids`` are those of all vCPUs, by index.

        One without a known destination may go to anyone. Raises HarnessError for a logical one:
        who that is stands in registers that no trace shows.
        """
        everyone, own = frozenset(apic_ids), frozenset({apic_ids[self.source]})
        if self.shorthand:
            return {"self": own, "all": everyone, "all-but-self": everyone - own}[self.shorthand]
        if self.destination in {None, BROADCAST}:
            return everyone
        if self.logical:
            raise HarnessError(f"the destination of {self} is logical")
        return everyone & {self.destination}


def ipis(writes: Iterable[Write]) -> list[Ipi]:
    """Return the IPIs that vCPUs sent by ``writes``, in their order.

    A write to the low half of the ICR sends one; the high half, written before by the same vCPU,
    says where to. Only xAPIC mode is seen: in x2APIC mode, and with KVM's own APICs, the registers
    are no memory of QEMU's. Assert and de-assert of INIT are told as two.
    """
    high: dict[int, int] = {}
    found = []
    for write in writes:
        if write.vcpu is None:
            continue
        if write.address == ICR_HIGH:
            high[write.vcpu] = write.value >> 24 & 0xFF
        elif write.address == ICR_LOW:
            value = write.value
            found.append(
                Ipi(
                    source=write.vcpu,
                    destination=high.get(write.vcpu),
                    shorthand=SHORTHANDS[value >> 18 & 3],
                    vector=value & 0xFF,
                    delivery=DELIVERY[value >> 8 & 7],
                    logical=bool(value >> 11 & 1),
                )
            )
    return found


def apic_ids(machine: Machine) -> tuple[int, ...]:
    """Return every vCPU's initial APIC id, by QEMU's index. Raises QmpError."""
    cpus = sorted(machine.qmp.execute("query-cpus-fast"), key=lambda cpu: int(cpu["cpu-index"]))
    return tuple(
        int(machine.qmp.execute("qom-get", path=cpu["qom-path"], property="apic-id")) for cpu in cpus
    )
