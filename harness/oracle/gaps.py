# SPDX-License-Identifier: MIT
"""How long CPUs did not serve: numbers that kernels count up in their memory, watched from outside.

with Gaps(machine, {"host": [Counter(0, 0x1234048)]}) as seen:
    ...
seen["host"].longest.ms

A thread looks about a thousand times a second. What it measures is the harness's clock between the
looks at which two beats following each other were first seen: what the guest did, and what this
computer withheld from QEMU and from the thread itself. Two more figures tell the latter:

- ``Gap.waited_ms``: how long, within the gap, QEMU's main loop, which fires the timer, and then the
  vCPU's thread were ready to run and waited for a core of this computer. Where both waited at the
  same time, it is counted twice. Source: the second field of /proc/PID/task/TID/schedstat.
- ``Gaps.pause_ms``: the longest time between two looks. No gap is wrong by more than that.

``waited_ms`` does not know what a core was slower by because another thread shared it, nor waiting
for a lock of QEMU's.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Self

import numpy as np

from harness.errors import HarnessError
from harness.vm.machine import Machine
from harness.vm.ram import ram_of
from harness.vm.ram_pages import Bytes

LOOK = 0.001
"""Seconds between two looks, where this computer is not busy."""
LONG = 50.0
"""Milliseconds without a beat that are worth a picture."""
URGENT = 1
"""Real-time priority of the thread that looks, where that is allowed: it needs little and cannot wait."""


@dataclass(frozen=True)
class Counter:
    """A number at a guest-physical ``address`` that the kernel on ``vcpu`` (QEMU's index) counts up."""

    vcpu: int
    address: int
    size: int = 8


@dataclass(frozen=True)
class Gap:
    """A stretch without a beat, in ms; ``waited_ms`` of it this computer was to blame for.

    ``began`` and ``ended`` are seconds since the watch began; ``open``: the next beat never came.
    """

    ms: float
    waited_ms: float
    began: float
    ended: float
    open: bool = False

    @property
    def net_ms(self) -> float:
        """What is left without the waiting for a core."""
        return self.ms - self.waited_ms

    def __str__(self) -> str:
        return f"{self.ms:.0f} ms at {self.began:.2f} s{', still open' if self.open else ''}"


NONE = Gap(0.0, 0.0, 0.0, 0.0)


@dataclass(frozen=True)
class Cpu:
    """What was seen of one CPU: beats, the longest gap, the longest net one, the last, open one.

    ``long`` are all gaps of LONG ms and more.
    """

    beats: int
    longest: Gap
    longest_net: Gap
    last: Gap
    long: tuple[Gap, ...]


@dataclass(frozen=True)
class Service:
    """What was seen of one kernel, by vCPU."""

    cpus: Mapping[int, Cpu]

    @property
    def beats(self) -> int:
        """Beats of all its CPUs."""
        return sum(cpu.beats for cpu in self.cpus.values())

    @property
    def longest(self) -> Gap:
        """The longest gap of any CPU."""
        return max((cpu.longest for cpu in self.cpus.values()), key=lambda gap: gap.ms, default=NONE)

    @property
    def longest_ms(self) -> float:
        """Its length in ms."""
        return self.longest.ms

    @property
    def ended_at(self) -> float:
        """When it was over, in seconds since the watch began."""
        return self.longest.ended

    @property
    def net_ms(self) -> float:
        """The longest of any CPU's gaps without the waiting for a core, in ms."""
        return max((cpu.longest_net.net_ms for cpu in self.cpus.values()), default=0.0)

    @property
    def silent_ms(self) -> float:
        """How long the CPU that is silent the longest has been so, when the watch ended or now, in ms."""
        return max((cpu.last.ms for cpu in self.cpus.values()), default=0.0)

    def __str__(self) -> str:
        return f"{self.beats} beats, longest gap {self.longest}"


@dataclass
class _Lane:
    """One CPU's counter and what it showed so far."""

    counter: Counter
    value: int
    at: float
    waits: tuple[float, float]
    beats: int = 0
    longest: Gap = NONE
    longest_net: Gap = NONE
    long: list[Gap] = field(default_factory=list)

    def gap(self, now: float, waits: tuple[float, float], began: float, *, open: bool = False) -> Gap:
        length = now - self.at
        waited = min(length, sum(waits) - sum(self.waits))
        return Gap(length * 1000, waited * 1000, self.at - began, now - began, open)

    def note(self, gap: Gap) -> None:
        self.longest = max(self.longest, gap, key=lambda one: one.ms)
        self.longest_net = max(self.longest_net, gap, key=lambda one: one.net_ms)
        if gap.ms >= LONG:
            self.long.append(gap)


@dataclass
class _Watched:
    """The lanes of every kernel, and how to read all of their counters at once."""

    lanes: dict[str, dict[int, _Lane]] = field(default_factory=dict)
    read: Callable[[], Bytes] | None = None
    flat: list[_Lane] = field(default_factory=list)


class Gaps:
    """The watch of several kernels, which begins and ends with the block; index it by their names.

    It goes on while kernels die. ``follow`` tells it where a kernel's successor counts.
    """

    def __init__(self, machine: Machine, kernels: Mapping[str, Sequence[Counter]]) -> None:
        self._ram = ram_of(machine)
        self._waits = _Waits(machine)
        self._watched = _Watched()
        self._lock = threading.Lock()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="gaps", daemon=True)
        self.began = time.monotonic()
        self.ended: float | None = None
        self.pause_ms = 0.0
        for name, counters in kernels.items():
            self.follow(name, counters)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()
        self._waits.close()

    @property
    def seconds(self) -> float:
        """How long it watched, so far."""
        return (self.ended or time.monotonic()) - self.began

    def __getitem__(self, name: str) -> Service:
        with self._lock:
            now = self.ended or time.monotonic()
            return Service({vcpu: self._seen(lane, now) for vcpu, lane in self._watched.lanes[name].items()})

    def follow(self, name: str, counters: Sequence[Counter]) -> None:
        """Watch these counters as ``name``'s from now on, in place of those before.

        What was seen of a vCPU stays, and a gap goes on until the first beat of the new counter; a
        vCPU without one any more is forgotten.
        """
        with self._lock:
            before, now = self._watched.lanes.get(name, {}), time.monotonic()
            lanes = {}
            for counter in counters:
                lane = before.get(counter.vcpu) or _Lane(counter, 0, now, self._waits(counter.vcpu))
                lane.counter = counter
                lane.value = int.from_bytes(self._ram.read(counter.address, counter.size), "little")
                lanes[counter.vcpu] = lane
            found = {**self._watched.lanes, name: lanes}
            flat = [lane for of_kernel in found.values() for lane in of_kernel.values()]
            read = self._ram.spots([lane.counter.address for lane in flat], 8)
            self._watched = _Watched(found, read, flat)

    def _seen(self, lane: _Lane, now: float) -> Cpu:
        last = lane.gap(now, self._waits(lane.counter.vcpu), self.began, open=True)
        return Cpu(
            lane.beats,
            max(lane.longest, last, key=lambda gap: gap.ms),
            max(lane.longest_net, last, key=lambda gap: gap.net_ms),
            last,
            (*lane.long, *([last] if last.ms >= LONG else [])),
        )

    def _watch(self) -> None:
        with suppress(PermissionError):
            # A nice level would not do: it counts within the session only (sched_autogroup_enabled).
            os.sched_setscheduler(0, os.SCHED_RR, os.sched_param(URGENT))
        before = time.monotonic()
        # What became of the machine is for others to tell; its kernels have stopped.
        with suppress(HarnessError):
            while not self._over.wait(LOOK):
                with self._lock:
                    now = self._look()
                self.pause_ms, before = max(self.pause_ms, (now - before) * 1000), now
        self._over.wait()
        with self._lock:
            self.ended = time.monotonic()
            self._waits.keep()

    def _look(self) -> float:
        watched = self._watched
        assert watched.read is not None
        words = watched.read().view(np.uint64)[:, 0].tolist()
        now = time.monotonic()
        for lane, word in zip(watched.flat, words, strict=True):
            value = word & (1 << 8 * lane.counter.size) - 1
            if value == lane.value:
                continue
            # Who counts backwards was put to zero, by a kernel that is made ready to begin.
            if value > lane.value:
                waits = self._waits(lane.counter.vcpu)
                lane.note(lane.gap(now, waits, self.began))
                lane.beats += value - lane.value
                lane.at, lane.waits = now, waits
            lane.value = value
        return now


class _Waits:
    """How long a vCPU's thread and QEMU's main loop have waited for a core, in seconds since ever."""

    def __init__(self, machine: Machine) -> None:
        tasks = f"/proc/{machine.pid}/task"
        self._main = self._open(f"{tasks}/{machine.pid}/schedstat")
        self._vcpus = {
            int(one["cpu-index"]): self._open(f"{tasks}/{one['thread-id']}/schedstat")
            for one in machine.qmp.execute("query-cpus-fast")
        }
        self._kept: dict[int, tuple[float, float]] = {}

    @staticmethod
    def _open(file: str) -> int:
        # Not every kernel has it: then nothing is known of waiting.
        try:
            return os.open(file, os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            return -1

    def __call__(self, vcpu: int) -> tuple[float, float]:
        if self._kept:
            return self._kept[vcpu]
        return self._read(self._vcpus[vcpu]), self._read(self._main)

    @staticmethod
    def _read(descriptor: int) -> float:
        try:
            return int(os.pread(descriptor, 64, 0).split()[1]) / 1e9
        except (OSError, IndexError):
            return 0.0

    def keep(self) -> None:
        """Answer as of now from now on."""
        self._kept = {vcpu: self(vcpu) for vcpu in self._vcpus}

    def close(self) -> None:
        for descriptor in (self._main, *self._vcpus.values()):
            if descriptor >= 0:
                os.close(descriptor)
