# SPDX-License-Identifier: MIT
"""The border between kernels, watched for a stretch: interrupts that cross it, devices of others.

with watch(lab, pair.instance) as border:
    ...
assert border.findings() == ()
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from typing import Literal

from harness.lab import Lab
from harness.model import Finding
from harness.multikernel.instance import Instance
from harness.multikernel.layout import HOST
from harness.oracle import devices, interrupts
from harness.oracle.devices import Touch
from harness.oracle.interrupts import Agreed, Crossing, crossings, kernels_of
from harness.vm import serialport
from harness.vm.lapic import apic_ids, logical_ids
from harness.vm.trace import LIMIT, Write, trace

MESSAGE = Agreed("fixed", "messages between kernels (MULTIKERNEL_VECTOR in all posts)", vector=0xEA)

Step = Literal["start", "stop"]
_CALLED = (
    Agreed("init", "the host calls a CPU (wakeup_secondary_cpu_via_init)", source=HOST),
    Agreed("startup", "the host calls a CPU (wakeup_secondary_cpu_via_init)", source=HOST),
)
STEPS: dict[str, dict[Step, tuple[Agreed, ...]]] = {
    # kernels/reference/README.md: every CPU of a kernel that stops is called to the host.
    "reference": {"start": _CALLED, "stop": _CALLED},
    # RFC v1 2/7 and v2: INIT and SIPI to the first CPU. They have no stop.
    "v1": {"start": _CALLED},
    "v2": {"start": _CALLED},
}
"""What may cross, by dialect, while an instance is started or stopped; beside messages, which always may."""
LENT = {"v1": ("PIC",), "v2": ("PIC",)}
"""Devices that the host gave away, by dialect: with noapic, which keeps such a kernel off the IO-APIC
(harness.multikernel.dialect), the 8259 delivers the interrupts of its serial lines."""


def agreed(dialect: str, during: Collection[Step] = ()) -> tuple[Agreed, ...]:
    """Return what may cross the border in a dialect, while these steps are taken."""
    steps = STEPS.get(dialect, {})
    return tuple(dict.fromkeys([MESSAGE, *(one for step in sorted(during) for one in steps.get(step, ()))]))


class Border:
    """What was seen of a stretch; complete once its block is over.

    ``kernels`` says who has each vCPU, ``agreed`` which interrupts may cross, ``lent`` which devices
    of the host's others may use.
    """

    def __init__(
        self,
        ids: tuple[int, ...],
        kernels: tuple[str, ...],
        agreed: tuple[Agreed, ...],
        lent: Collection[str],
    ) -> None:
        self.apic_ids = ids
        self.kernels = kernels
        self.agreed = agreed
        self.lent = lent
        self.writes: list[Write] = []
        self.crossings: list[Crossing] = []
        self.touches: list[Touch] = []

    def findings(self) -> tuple[Finding, ...]:
        """Return what crossed the border and is not agreed, and who touched another's device."""
        return (*interrupts.foreign(self.crossings, self.agreed), *devices.foreign(self.touches, self.lent))

    def __str__(self) -> str:
        """Say in a line what was seen, for people."""
        by_kernel = Counter(self.kernels[w.vcpu] for w in self.writes if w.vcpu is not None)
        crossed = Counter(f"{c.source} to {c.target}: {c.kind}" for c in self.crossings)
        touched = Counter(f"{t.kernel} to {t.device}" for t in self.touches)
        return "; ".join(
            (
                "register writes: "
                + (", ".join(f"{n} by {name}" for name, n in by_kernel.items()) or "none"),
                "crossing: " + (", ".join(f"{n} {what}" for what, n in crossed.items()) or "nothing"),
                "devices: " + (", ".join(f"{n} by {what}" for what, n in touched.items()) or "none"),
            )
        )


@contextmanager
def watch(
    lab: Lab, *instances: Instance, during: Collection[Step] = (), limit: int = LIMIT
) -> Iterator[Border]:
    """Record what crosses the border between the host and the kernels of ``instances``.

    Their CPUs count as theirs for the whole stretch, so it begins after they were granted. ``during``
    are the steps that are taken meanwhile. Keep it short: two idle kernels write some thousand times
    a second. Raises TraceError.
    """
    machine = lab.machine
    ids = apic_ids(machine)
    kernels = kernels_of(ids, {instance.name: instance.apic_ids for instance in instances}, HOST)
    dialect = lab.dialect.name
    border = Border(ids, kernels, agreed(dialect, during), LENT.get(dialect, ()))
    logical = logical_ids(machine, ids)
    lines = {one.line: one.address for one in serialport.located(lab.topology.serial, machine.qmp)}
    with trace(machine, limit=limit) as writes:
        yield border
    border.writes = writes
    border.crossings = crossings(writes, ids, kernels, HOST, logical)
    border.touches = devices.touches(writes, kernels, lines, HOST)
