# SPDX-License-Identifier: MIT
"""Whether kernels go on serving while something happens to another: heartbeats, from outside, and vitals.

idle = quiet(lab, {"host": lab.host}, 2.0)
with gaps(lab, {"host": lab.host}) as seen:
    ...
seen["host"].longest_ms, idle["host"].longest_ms
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from harness.errors import HarnessError
from harness.lab import Lab
from harness.multikernel.kernel import Kernel
from harness.oracle.gaps import Counter, Gaps
from harness.vm.lapic import apic_ids

DRIFT, ROUNDED = 0.05, 1.1
"""By how much a clock may go wrong, as a part, and what is lost by asking for whole seconds."""

ANSWER = 4.0
"""Seconds that a kernel has for an answer, before scaling by the accelerator."""


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


@dataclass(frozen=True)
class Vitals:
    """A Linux at one moment: its clocks in seconds and each CPU's timer interrupts.

    ``earliest`` and ``latest`` are the harness's clock before it was asked and when it had answered.
    """

    earliest: float
    latest: float
    uptime: float
    date: float
    timers: Mapping[int, int]

    def wrong_since(self, before: Vitals) -> list[str]:
        """Return what is wrong, a line each: clocks, and CPUs without interrupts."""
        least, most = self.earliest - before.latest, self.latest - before.earliest
        found = []
        for name, went in (
            ("monotonic", self.uptime - before.uptime),
            ("real-time", self.date - before.date),
        ):
            if not least * (1 - DRIFT) - ROUNDED <= went <= most * (1 + DRIFT) + ROUNDED:
                found.append(f"its {name} clock went {went:.2f} s in {least:.2f} to {most:.2f} s")
        deaf = [cpu for cpu, count in before.timers.items() if self.timers.get(cpu, 0) <= count]
        return [*found, *(f"CPU {cpu} has had no timer interrupt" for cpu in deaf)]


def vitals(kernel: Kernel) -> Vitals:
    """Ask a Linux how it is; have it take 4 KiB and give them back. Raises HarnessError when it does not."""
    data = secrets.token_bytes(4096)
    kernel.channel.put("/run/vitals", data, timeout=ANSWER)
    if kernel.channel.get("/run/vitals", timeout=ANSWER) != data:
        raise HarnessError(f"{kernel.name} does not give back what it was given")
    earliest = time.monotonic()
    told = kernel.run("cat /proc/uptime; date +%s; grep -E '^ *(CPU|LOC)' /proc/interrupts", timeout=ANSWER)
    latest = time.monotonic()
    uptime, date, cpus, timers = told.splitlines()
    counts = zip(cpus.split(), timers.split()[1:], strict=False)
    by_cpu = {int(cpu.removeprefix("CPU")): int(count) for cpu, count in counts}
    return Vitals(earliest, latest, float(uptime.split()[0]), float(date), by_cpu)
