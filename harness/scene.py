# SPDX-License-Identifier: MIT
"""Kernels of which one is made to fail, and what the others are asked before, meanwhile and afterwards.

scene.fail(scene.pair.spawned, "panic", FAULTS["panic"])
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass

from harness.errors import HarnessError
from harness.faults import Fault, provoked
from harness.lab import Lab, Pair
from harness.multikernel.interface import Interface
from harness.multikernel.kernel import Kernel
from harness.multikernel.payload import Payload
from harness.oracle.gaps import Gaps
from harness.report import gaps as report
from harness.service import Vitals, gaps, quiet, vitals
from harness.vm.lapic import apic_ids

SECONDS = 2.0
"""How long others are watched, at rest and beside a fault."""
SILENCE_MS = 10_000
"""A CPU that has not beaten for so long has stopped; far above what a busy computer makes of 10 ms."""

STATE_LIMIT = 20.0
"""Seconds until a host has noticed that a kernel ended, before scaling by the accelerator."""


@dataclass
class Scene:
    """Kernels that live: ``host``, the spawned Linux of ``pair``, and the payload ``third``, if there is one.

    ``seen`` takes a line of what was observed; ``states`` tells an instance's state, where it has one.
    """

    lab: Lab
    pair: Pair
    third: Payload | None
    seen: Callable[[str], None]
    states: Interface | None = None

    @property
    def host(self) -> Kernel:
        """The host kernel."""
        return self.lab.host

    def vcpus(self, kernel: Kernel) -> list[int]:
        """Return the vCPUs that a kernel runs on."""
        ids = self.pair.instance.apic_ids if kernel is self.pair.spawned else kernel.apic_ids()
        return [vcpu for vcpu, apic_id in enumerate(apic_ids(self.lab.machine)) if apic_id in ids]

    def others(self, victim: Kernel) -> dict[str, Kernel | Payload]:
        """Return all kernels but ``victim``, by name."""
        found: dict[str, Kernel | Payload] = {
            kernel.name: kernel for kernel in (self.host, self.pair.spawned) if kernel is not victim
        }
        return found | ({self.third.instance.name: self.third} if self.third else {})

    def fail(self, victim: Kernel, what: str, fault: Fault) -> None:
        """Make ``victim`` fail, and require that all others serve meanwhile and afterwards.

        Raises HarnessError when they do not, or the machine ends.
        """
        others, lab = self.others(victim), self.lab
        machine = lab.machine
        linuxes = [kernel for kernel in others.values() if isinstance(kernel, Kernel)]
        fault.prepare(victim)
        vcpus = self.vcpus(victim)
        idle = quiet(lab, others, SECONDS)
        before = [vitals(kernel) for kernel in linuxes]
        with ExitStack() as stack:
            with gaps(lab, others) as during:
                at = stack.enter_context(provoked(machine, victim, vcpus, fault))
                time.sleep(max(0.0, SECONDS - during.seconds))
                self._await_beats(during, others)
            if machine.ended() is None:
                wrong = self._wrong(linuxes, before)
        ended = machine.ended()
        machine.end_awaited = ended is not None
        if ended is not None:
            self.seen(f"{what} in {victim.name}: {ended}")
            raise HarnessError(f"{what} in {victim.name} ended the whole machine: {ended}")
        records = report.keep(lab.build.digest, f"{victim.name}: {what}", idle, during, others)
        told = f"{what} in {victim.name} after {at - during.began:.1f} s; {self._noticed(victim)}"
        self.seen(f"{told}; {report.line(records)}")
        wrong += self._silent(during, others)
        if wrong:
            raise HarnessError(f"{what} in {victim.name} did not stay there", details="\n".join(wrong))

    def _wrong(self, linuxes: Sequence[Kernel], before: Sequence[Vitals]) -> list[str]:
        found = []
        for kernel, then in zip(linuxes, before, strict=True):
            try:
                found += [f"{kernel.name}: {line}" for line in vitals(kernel).wrong_since(then)]
            except HarnessError as error:
                found.append(f"{kernel.name} does not answer: {error}")
        if self.third:
            try:
                self.third.beats()
            except HarnessError as error:
                found.append(f"{self.third.instance.name} does not answer: {error}")
        return found

    def _await_beats(self, during: Gaps, names: Iterable[str]) -> None:
        """Give CPUs that have not beaten yet the time in which one that lives would."""
        while during.seconds < SECONDS * self.lab.accel.factor:
            if all(cpu.beats for name in names for cpu in during[name].cpus.values()):
                return
            time.sleep(0.05)

    def _silent(self, during: Gaps, names: Iterable[str]) -> list[str]:
        cpus = [(name, vcpu, cpu) for name in names for vcpu, cpu in during[name].cpus.items()]
        return [
            f"{name} stood still on vCPU {vcpu}: {cpu.beats} beats, {cpu.longest}"
            for name, vcpu, cpu in cpus
            if not cpu.beats or cpu.longest.ms > SILENCE_MS
        ]

    def _noticed(self, victim: Kernel) -> str:
        if self.states is None or victim is self.host:
            return "nobody is told"
        return f"its host says {self.states.state(victim.name)}"


def wait_for_state(mk: Interface, name: str, state: str, factor: float) -> str:
    """Wait until an instance is in a state, or for too long; return the state that it is in."""
    limit = time.monotonic() + STATE_LIMIT * factor
    while (found := mk.state(name)) != state and time.monotonic() < limit:
        time.sleep(0.05)
    return found
