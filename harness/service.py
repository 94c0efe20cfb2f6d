# SPDX-License-Identifier: MIT
"""Whether kernels go on serving while something happens to another: their heartbeats, from outside.

idle = quiet(lab, {"host": lab.host}, 2.0)
with gaps(lab, {"host": lab.host}) as seen:
    ...
seen["host"].longest_ms, idle["host"].longest_ms
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Protocol

from harness.lab import Lab
from harness.oracle.gaps import Counter, Gaps
from harness.vm.lapic import apic_ids


class Serving(Protocol):
    """A kernel that counts up a number on each CPU: a Linux (``Kernel``) or a ``Payload``."""

    def counters(self) -> dict[int, tuple[int, int]]:
        """Return where: address and bytes, by APIC id."""


def counters(lab: Lab, kernel: Serving) -> list[Counter]:
    """Return where a kernel of ``lab`` counts on which vCPU; for ``Gaps.follow``. Asks the kernel."""
    vcpus = {apic_id: vcpu for vcpu, apic_id in enumerate(apic_ids(lab.machine))}
    found = kernel.counters().items()
    return [Counter(vcpus[apic_id], address, size) for apic_id, (address, size) in found]


def gaps(lab: Lab, kernels: Mapping[str, Serving]) -> Gaps:
    """Return the watch of these kernels, to be entered; all have to answer now, and none later."""
    return Gaps(lab.machine, {name: counters(lab, kernel) for name, kernel in kernels.items()})


def quiet(lab: Lab, kernels: Mapping[str, Serving], seconds: float) -> Gaps:
    """Watch them for a time in which the harness does nothing: what to compare with."""
    with gaps(lab, kernels) as seen:
        time.sleep(seconds)
    return seen
