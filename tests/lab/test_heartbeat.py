# SPDX-License-Identifier: MIT
"""A kernel's heart beats slowly until its gaps are measured, and then quickly on each of its CPUs."""

from __future__ import annotations

import time

from harness.lab import Lab
from harness.multikernel.kernel import HEARTBEAT, PACE_MS, WATCHED_PACE_MS, Kernel
from harness.service import quiet

SECONDS = 2.0


def pace(host: Kernel) -> float:
    *_, last = host.run(f"mkctl heartbeat-read {HEARTBEAT}").split("interval_ms=")
    return float(last)


def processes(host: Kernel) -> int:
    return len(host.run("pidof mkctl-beat || grep -l mkctl-beat /proc/[0-9]*/comm").split())


def test_faster_when_watched(lab: Lab) -> None:
    host = lab.host
    assert pace(host) == PACE_MS
    seen = quiet(lab, {"host": host}, SECONDS)["host"]
    assert pace(host) == WATCHED_PACE_MS
    assert processes(host) == len(host.apic_ids()) == len(seen.cpus)
    assert all(counted.beats for counted in seen.cpus.values()), str(seen)


def test_watched_again_it_beats_on(lab: Lab) -> None:
    first = lab.host.counters()
    before = lab.host.heartbeat()
    time.sleep(0.1)
    assert lab.host.counters() == first
    assert lab.host.beats_since(before)
