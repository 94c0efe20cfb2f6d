# SPDX-License-Identifier: MIT
"""Interrupts that cross from one kernel to another, from a traced stretch of register writes.

What a vCPU writes to its local APIC's command register is an interrupt that its kernel sends. A
write behind the registers is an interrupt message, a device's as a rule, though a CPU can write one
as well: the trace cannot tell, so either is told with the vCPU in whose course it came, or as the
host's where it came from QEMU's own threads, since devices are the host's.

Not seen: x2APIC mode, where the command register is an MSR. QEMU 7.2 has no trace event for those
(``apic_deliver_irq`` names no sender), and under TCG no x2APIC either.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from harness.model import Evidence, Finding
from harness.vm.lapic import BASE, BROADCAST, DELIVERY, LDR, REGISTERS, SPAN, Ipi, ipis
from harness.vm.trace import Write

SHOWN = 20
"""How many of a finding's writes are shown; all are counted."""


@dataclass(frozen=True)
class Agreed:
    """An interrupt that may cross, fixed beforehand, and why.

    ``source`` is the one kernel that may send it; None: any. ``vector`` counts for fixed delivery.
    """

    delivery: str
    why: str
    vector: int | None = None
    source: str | None = None

    def covers(self, crossing: Crossing) -> bool:
        """Say whether ``crossing`` is one of these; what reaches everybody at once never is."""
        return (
            crossing.delivery == self.delivery
            and not crossing.broadcast
            and self.vector in {None, crossing.vector}
            and self.source in {None, crossing.source}
        )

    def __str__(self) -> str:
        what = self.delivery.upper() if self.vector is None else f"vector {self.vector:#x}"
        return f"{what} from {self.source or 'any kernel'}: {self.why}"


@dataclass(frozen=True)
class Crossing:
    """An interrupt with the kernels that it came from and went to; ``message``: it is no IPI.

    ``target`` is one of the kernels reached, ``reached`` its APIC ids. ``broadcast``: it named no CPU.
    """

    source: str
    vcpu: int | None
    target: str
    reached: frozenset[int]
    delivery: str
    vector: int
    broadcast: str = ""
    message: bool = False

    @property
    def kind(self) -> str:
        """What it is, without the CPUs."""
        what = f"vector {self.vector:#x}" if self.delivery in {"fixed", "lowest"} else self.delivery.upper()
        how = f" to {self.broadcast}" if self.broadcast else ""
        return f"{'interrupt message' if self.message else 'IPI'}, {what}{how}"

    def __str__(self) -> str:
        vcpu = "a device" if self.vcpu is None else f"vCPU {self.vcpu}"
        return f"{self.source} ({vcpu}) -> {self.target} (APIC ids {sorted(self.reached)}): {self.kind}"


def kernels_of(apic_ids: Sequence[int], owners: Mapping[str, Iterable[int]], host: str) -> tuple[str, ...]:
    """Return who has each vCPU, by index; ``owners`` has APIC ids by kernel, the rest are the host's."""
    kernel = {apic: name for name, ids in owners.items() for apic in ids}
    return tuple(kernel.get(apic, host) for apic in apic_ids)


def crossings(
    writes: Sequence[Write],
    apic_ids: Sequence[int],
    kernels: Sequence[str],
    host: str,
    logical: Sequence[int] = (),
) -> list[Crossing]:
    """Return every interrupt that reaches another kernel than the one it comes from, IPIs first.

    ``apic_ids``, ``kernels`` (``kernels_of``) and ``logical`` are by vCPU index; what was written to
    logical ids within the stretch is added. Raises HarnessError as ``Ipi.targets`` does.
    """
    logical = list(logical)
    for write in writes if logical else ():
        if write.address == LDR and write.vcpu is not None:
            logical[write.vcpu] |= write.value >> 24
    sent = [(ipi.source, ipi, False) for ipi in ipis(writes)] + [
        (write.vcpu, _message(write), True)
        for write in writes
        if write.region == "apic-msi" and BASE + REGISTERS <= write.address < BASE + SPAN
    ]
    found = []
    for vcpu, ipi, message in sent:
        source = host if vcpu is None else kernels[vcpu]
        broadcast = ipi.shorthand or ("APIC id 0xff" if ipi.destination == BROADCAST else "")
        reached: dict[str, set[int]] = {}
        targets = ipi.targets(apic_ids, logical)
        for apic, kernel in zip(apic_ids, kernels, strict=True):
            if apic in targets and kernel != source:
                reached.setdefault(kernel, set()).add(apic)
        found += [
            Crossing(source, vcpu, kernel, frozenset(ids), ipi.delivery, ipi.vector, broadcast, message)
            for kernel, ids in reached.items()
        ]
    return found


def foreign(crossed: Iterable[Crossing], agreed: Sequence[Agreed]) -> tuple[Finding, ...]:
    """Return a finding for each kind of crossing between two kernels that is not agreed."""
    groups: dict[tuple[str, str, str], list[Crossing]] = {}
    for one in crossed:
        if not any(exception.covers(one) for exception in agreed):
            groups.setdefault((one.source, one.target, one.kind), []).append(one)
    allowed = Evidence("what may cross", "\n".join(map(str, agreed)))
    return tuple(
        Finding(
            f"{source} sent {target} {kind}, {len(group)} times",
            (Evidence(f"the first of {len(group)}", "\n".join(map(str, group[:SHOWN]))), allowed),
        )
        for (source, target, kind), group in groups.items()
    )


def _message(write: Write) -> Ipi:
    """Read an interrupt message. Source: Intel SDM volume 3, 12.11."""
    return Ipi(
        source=-1,
        destination=write.address >> 12 & 0xFF,
        shorthand="",
        vector=write.value & 0xFF,
        delivery=DELIVERY[write.value >> 8 & 7],
        logical=bool(write.address >> 2 & 1),
    )
