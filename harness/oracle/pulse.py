# SPDX-License-Identifier: MIT
"""Whether a kernel runs, from a counter that it counts up in its memory and from its CPUs."""

from __future__ import annotations

import time
from collections.abc import Iterable

from harness.oracle.processors import processors
from harness.vm.machine import Machine
from harness.vm.ram import ram_of

LOOK = 0.1
"""Seconds between two looks at a counter that advances a thousand times a second."""


class Pulse:
    """A 32-bit counter at ``address``, and the kernel's CPUs by QEMU's index."""

    def __init__(self, machine: Machine, address: int, cpus: Iterable[int]) -> None:
        self._machine, self._ram = machine, ram_of(machine)
        self._address, self._cpus = address, frozenset(cpus)

    @property
    def beats(self) -> int:
        """The counter's value now."""
        return int.from_bytes(self._ram.read(self._address, 4), "little")

    def stopped(self) -> bool:
        """Whether the counter stands still for LOOK seconds, and all of the CPUs are halted then."""
        before = self.beats
        time.sleep(LOOK)
        halted = {processor.index for processor in processors(self._machine) if processor.halted}
        return self.beats == before and halted >= self._cpus

    def beating(self, timeout: float = 5.0) -> bool:
        """Whether the counter advances within ``timeout`` seconds, stretched by the accelerator."""
        before, deadline = self.beats, time.monotonic() + timeout * self._machine.accel.factor
        while self.beats == before:
            if time.monotonic() > deadline:
                return False
            time.sleep(0.01)
        return True
