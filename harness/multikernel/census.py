# SPDX-License-Identifier: MIT
"""What a host kernel has and lists at one moment, to be compared with later: nothing may be lost.

Memory and slab objects wander a little whatever happens, so leaks are looked for over many rounds.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from harness.multikernel.interface import MOUNT
from harness.multikernel.kernel import Kernel

FREE = {"MemFree", "MemAvailable"}
"""Counters that fall when memory is lost; the others rise."""
_READ = f"""
# What is freed after a grace period is free by then.
sleep 0.3
echo 3 >/proc/sys/vm/drop_caches
echo "== online"; cat /sys/devices/system/cpu/online
echo "== iomem"; cat /proc/iomem
echo "== images"; cat /proc/kimage /proc/multikernel 2>/dev/null
echo "== files"; find {MOUNT} 2>/dev/null | sort
echo "== modules"; cat /proc/modules
echo "== free"; grep -E '^(MemFree|MemAvailable|Slab|SUnreclaim|VmallocUsed|Percpu):' /proc/meminfo
# Free pages that a CPU keeps for itself are in no other counter.
awk '$1 == "count:" {{ pages += $2 }} END {{ print "Kept: " pages * 4 " kB" }}' /proc/zoneinfo
"""


@dataclass(frozen=True)
class Census:
    """What must be the same again (``lists``, by name), and counters of memory in KiB (``memory``)."""

    lists: dict[str, str]
    memory: dict[str, int]

    def lost_since(self, before: Census) -> list[str]:
        """Return, a line each, what of the lists is not as it was."""
        found = []
        for name, text in before.lists.items():
            old, new = text.splitlines(), self.lists[name].splitlines()
            found += [f"{name}: gone: {line}" for line in old if line not in new]
            found += [f"{name}: new: {line}" for line in new if line not in old]
        return found


def take(host: Kernel) -> Census:
    """Take a census of a host kernel; its caches are dropped before."""
    sections = re.split(r"^== (\w+)\n", host.run(_READ), flags=re.MULTILINE)[1:]
    lists = dict(zip(sections[::2], sections[1::2], strict=True))
    memory = {key: int(value) for key, value in re.findall(r"^(\w+): +(\d+) kB", lists.pop("free"), re.M)}
    kept = memory.pop("Kept")
    for key in FREE:
        memory[key] += kept
    return Census(lists, memory)


@dataclass(frozen=True)
class Leak:
    """By how much the kernel's memory changed in that round, of some, that speaks least for a leak; in KiB.

    Free memory wanders between lists by hundreds of KiB; a leak is lost in every round.
    """

    rounds: int
    per_round: dict[str, int]
    found: list[str]

    def __str__(self) -> str:
        told = ", ".join(f"{name} {amount:+.1f}" for name, amount in self.per_round.items())
        return f"KiB in the best of {self.rounds} rounds: {told}"


def leak(
    host: Kernel,
    action: Callable[[], object],
    *,
    allowed: Mapping[str, float],
    warm_up: int,
    rounds: int = 1,
    most: int = 10,
) -> Leak:
    """Repeat an action, and return by how much the kernel's memory changed each time at least.

    ``allowed`` says by counter how many KiB a round may cost: ``found`` names those that cost more in
    every round. There are at least ``rounds``, and up to ``most`` until each counter had a round
    within its limit. The first ``warm_up`` times do not count: caches and pools fill.
    """
    for _ in range(warm_up):
        action()
    before = take(host).memory
    best: dict[str, int] = {}
    found: list[str] = []
    done = 0
    while done < rounds or (found and done < most):
        action()
        done += 1
        after = take(host).memory
        for key, value in after.items():
            change = value - before[key]
            best[key] = (max if key in FREE else min)(best.get(key, change), change)
        before = after
        found = [
            f"{key}: {best[key]:+} KiB in the best of {done} rounds, {limit:.0f} are allowed"
            for key, limit in allowed.items()
            if (-best[key] if key in FREE else best[key]) >= limit
        ]
    return Leak(done, best, found)
