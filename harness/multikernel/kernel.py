# SPDX-License-Identifier: MIT
"""One live kernel, host or spawned, and what it says of itself through its agent."""

from __future__ import annotations

import re
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from harness.errors import HarnessError
from harness.model import Region, without
from harness.vm.channel import Channel
from harness.vm.console import Console

HEARTBEAT = "/run/heartbeat"
LATER = 0.5
"""Seconds that the agent has to tell of a shell's end, while a CPU may stand still on a busy computer."""
PACE_MS, WATCHED_PACE_MS = 50, 10
"""Between two beats: of a kernel that only has to live, and of one whose gaps are measured from outside.

Under TCG an idle host of four CPUs takes 16 % of a core to beat every 10 ms, and 4 % every 50 ms.
"""
POOL = "Multikernel Memory Pool"
"""What /proc/iomem calls the memory for spawned kernels. Source: RFC v2 06/16, and the tree."""


@dataclass(frozen=True)
class Resource:
    """One line of /proc/iomem; ``depth`` 0 is the outermost."""

    region: Region
    name: str
    depth: int


@dataclass(frozen=True)
class Beat:
    """One CPU's heartbeat: beats so far, and the longest time between two of them in ms.

    ``address`` is where in physical memory the 64 bits are that count the beats; 0 when not known.
    """

    beats: int
    max_gap_ms: float
    address: int = 0


@dataclass(frozen=True)
class Heartbeat:
    """The heartbeat of every online CPU of a kernel at one moment, by logical CPU number."""

    cpus: Mapping[int, Beat]

    def stopped_since(self, before: Heartbeat) -> list[int]:
        """Return the CPUs that have not beaten since ``before`` was read."""
        return [
            cpu
            for cpu, beat in self.cpus.items()
            if cpu in before.cpus and beat.beats <= before.cpus[cpu].beats
        ]

    @property
    def longest_gap_ms(self) -> float:
        """The longest time in ms between two beats on any CPU, by the kernel's own clock."""
        return max((beat.max_gap_ms for beat in self.cpus.values()), default=0.0)


class Kernel:
    """A live kernel: its console for what it prints, its channel for commands.

    Time-outs are in seconds of a computer with KVM; ``factor`` stretches them for the accelerator.
    """

    def __init__(self, name: str, console: Console, channel: Channel, factor: float) -> None:
        self.name = name
        self.console = console
        self.channel = channel
        self.factor = factor

    def run(self, command: str, *, timeout: float = 10.0) -> str:
        """Run a shell command, require exit status 0, return its standard output. Raises HarnessError."""
        return self.channel.run(command, timeout=timeout).check().text

    def later(self, command: str) -> None:
        """Have a shell command begin by itself once this has returned: one that ends or holds up this kernel.

        Nobody is told how it ends. Raises HarnessError when it cannot be left there.
        """
        # The agent tells of this shell's end when it is gone. One where steps are typed by hand stays.
        gone = "n=0; while [ -d /proc/$$ ] && [ $((n += 1)) -le 100 ]; do usleep 20000; done"
        self.run(f"({gone}; usleep {LATER * 1e6:.0f}; {command}) </dev/null >/dev/null 2>&1 &")

    def read(self, path: str) -> str:
        """Return the text of a file in this kernel."""
        return self.run(f"cat '{path}'")

    def iomem(self) -> tuple[Resource, ...]:
        """Return /proc/iomem."""
        return parse_iomem(self.read("/proc/iomem"))

    def system_ram(self) -> tuple[Region, ...]:
        """Return the memory that this kernel uses as RAM, sorted and joined."""
        return usable_ram(self.iomem())

    def apic_ids(self) -> tuple[int, ...]:
        """Return the local APIC ids of this kernel's online CPUs, sorted."""
        return tuple(sorted(parse_apic_ids(self.read("/proc/cpuinfo")).values()))

    def start_heartbeat(self, pace_ms: int = PACE_MS) -> None:
        """Start a process on every online CPU that counts a beat every ``pace_ms``; those before end."""
        # In a file of its own, so that none of those before counts in it.
        self.run(f"killall -q mkctl-beat; rm -f {HEARTBEAT}; mkctl heartbeat {HEARTBEAT} {pace_ms}")

    def heartbeat(self) -> Heartbeat:
        """Read the heartbeat; start_heartbeat() comes first."""
        return parse_heartbeat(self.run(f"mkctl heartbeat-read {HEARTBEAT}"))

    def counters(self) -> dict[int, tuple[int, int]]:
        """Return where the beats of each online CPU are counted: address and bytes, by APIC id.

        The heartbeat is started anew, at a pace to be watched, where there is none or a slower one: what was
        counted before is lost. Raises HarnessError when the kernel does not say.
        """
        told = self.run(f"mkctl heartbeat-read {HEARTBEAT} 2>/dev/null || true")
        if f"interval_ms={WATCHED_PACE_MS}." not in told:
            self.start_heartbeat(WATCHED_PACE_MS)
        beats, ids = self.heartbeat().cpus, parse_apic_ids(self.read("/proc/cpuinfo"))
        lost = [cpu for cpu, beat in beats.items() if not beat.address]
        if lost:
            raise HarnessError(
                f"{self.name} does not say where in memory its heartbeat is",
                advice="is CONFIG_PROC_PAGE_MONITOR set?",
            )
        return {ids[cpu]: (beat.address, 8) for cpu, beat in beats.items() if cpu in ids}

    def beats_since(self, before: Heartbeat, timeout: float = 5.0) -> bool:
        """Say whether every CPU has beaten since ``before``, within ``timeout`` seconds before scaling."""
        deadline = time.monotonic() + timeout * self.factor
        while self.heartbeat().stopped_since(before):
            if time.monotonic() > deadline:
                return False
            time.sleep(0.02)
        return True


def parse_iomem(text: str) -> tuple[Resource, ...]:
    """Read the lines of /proc/iomem (two blanks of indentation per level)."""
    resources = []
    for line in text.splitlines():
        match = re.fullmatch(r"( *)([0-9a-f]+)-([0-9a-f]+) : (.*)", line)
        if not match:
            raise HarnessError(f"this is not a line of /proc/iomem: {line!r}")
        first, last = int(match[2], 16), int(match[3], 16)
        resources.append(Resource(Region.from_bounds(first, last), match[4], len(match[1]) // 2))
    if resources and all(r.region.end == 1 for r in resources):
        raise HarnessError("every address in /proc/iomem is zero: it was read without CAP_SYS_ADMIN")
    return tuple(resources)


def usable_ram(resources: Iterable[Resource]) -> tuple[Region, ...]:
    """Return the System RAM in /proc/iomem that a kernel has not set aside for other kernels.

    v2 sets its pool aside inside what its map calls RAM, and the tree may do so as well.
    """
    resources = tuple(resources)
    ram = [r.region for r in resources if r.name == "System RAM" or r.name.startswith("System RAM (")]
    return without(ram, (r.region for r in resources if r.name == POOL))


def parse_apic_ids(text: str) -> dict[int, int]:
    """Read /proc/cpuinfo: the local APIC id of each logical CPU."""
    ids = dict(zip(_numbers(text, "processor"), _numbers(text, "apicid"), strict=True))
    if not ids:
        raise HarnessError("/proc/cpuinfo names no processor with an APIC id")
    return ids


def _numbers(text: str, key: str) -> list[int]:
    return [int(value) for value in re.findall(rf"^{key}\s*: (\d+)$", text, re.MULTILINE)]


def parse_heartbeat(text: str) -> Heartbeat:
    """Read what ``mkctl heartbeat-read`` prints; CPUs that went offline are left out."""
    lines = [dict(item.split("=", 1) for item in line.split() if "=" in item) for line in text.splitlines()]
    now = next((float(fields["now_ms"]) for fields in lines if "now_ms" in fields), 0.0)
    cpus = {}
    for fields in lines:
        if "cpu" in fields and fields.get("state") != "offline":
            # A gap that is still open counts: a CPU that stopped has no later beat to record it.
            gap = max(float(fields["max_gap_ms"]), now - float(fields["last_ms"]))
            address = int(fields.get("address", "0"), 16)
            cpus[int(fields["cpu"])] = Beat(int(fields["beats"]), gap, address)
    if not cpus:
        raise HarnessError(f"no CPU has a heartbeat: {text!r}")
    return Heartbeat(cpus)
