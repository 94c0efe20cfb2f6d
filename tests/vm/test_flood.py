# SPDX-License-Identifier: MIT
"""A guest that prints without end while nobody reads its console.

An ISA port under TCG carried 89 KB/s here on a busy computer, so 100 MB come through a pipe in
tests/unit/test_transcript.py. Here a real guest floods for 20 seconds, or with MKHARNESS_SOAK=1 for a minute.
"""

from __future__ import annotations

import os
import resource
import time

from harness.vm.machine import Machine

SECONDS = 60 if os.environ.get("MKHARNESS_SOAK") else 20


def beats(machine: Machine) -> dict[str, int]:
    """Return the beats of each CPU so far."""
    text = machine.channel("guest").run("mkctl heartbeat-read /run/heartbeat").check().text
    fields = [dict(word.split("=", 1) for word in line.split() if "=" in word) for line in text.splitlines()]
    return {one["cpu"]: int(one["beats"]) for one in fields if "cpu" in one}


def test_a_guest_that_floods_a_console_that_nobody_reads_goes_on(machine: Machine) -> None:
    guest, console = machine.channel("guest"), machine.console("guest")
    guest.run("mkctl heartbeat /run/heartbeat 10").check()
    guest.run("(while :; do seq 100000; done >/dev/ttyS2) >/dev/null 2>&1 &").check()
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    begin, seen, before = time.monotonic(), console.mark, beats(machine)
    while time.monotonic() < begin + SECONDS:
        time.sleep(1)
        printed, now = console.mark, beats(machine)
        assert now.keys() == before.keys()
        assert all(now[cpu] > before[cpu] for cpu in now), f"a CPU stands still: {before} {now}"
        assert printed > seen, "the guest prints no more"
        seen, before = printed, now
    data = bytes(range(256)) * 256
    guest.put("/tmp/data", data)
    assert guest.get("/tmp/data") == data
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - memory) >> 10
    assert grown < 40, f"{grown} MiB for {seen >> 10} KiB printed"
