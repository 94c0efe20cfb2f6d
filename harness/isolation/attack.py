# SPDX-License-Identifier: MIT
"""One kernel that reaches for another: who attacks, who is attacked, and what is seen of it.

The attacker is code with all privileges of a kernel: the payload in a spawned kernel's place, the
module mkraw in the host. Both take the same commands (``help`` of the payload lists them).
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal, Protocol

from harness.errors import HarnessError
from harness.forks import Forks
from harness.lab import Lab
from harness.model import Region
from harness.multikernel import calls, segments
from harness.multikernel.kernel import Kernel, parse_apic_ids
from harness.multikernel.layout import HOST
from harness.multikernel.payload import Payload, spawn_payload
from harness.progress import Progress
from harness.vm import serialport
from harness.vm.console import Console
from harness.vm.ram import ram_of

Direction = Literal["spawned -> host", "spawned -> spawned", "host -> spawned"]
MODULE = "/lib/modules/mkraw.ko"
RESCHEDULE, NMI_VECTOR = 0xFD, 2
"""Vector of rescheduling interrupts (arch/x86/include/asm/irq_vectors.h), and of NMIs."""
SEEN_LIMIT = 2.0
"""Seconds until what was done shows, before scaling by the accelerator."""
PAGE = 4096


class NotTried(HarnessError):
    """An experiment that says nothing about this kernel, and why."""


@dataclass(frozen=True)
class Outcome:
    """What became of an attack."""

    through: bool
    evidence: str


class Attacker(Protocol):
    """A kernel that does what it is told."""

    name: str

    def do(self, command: str) -> int:
        """Run a command and return its value, 0 where it has none. Raises HarnessError."""

    def begin(self, command: str) -> None:
        """Begin a command that may not come back."""


class PayloadAttacker:
    """The payload, in place of a spawned kernel."""

    def __init__(self, payload: Payload) -> None:
        self.name = f"{payload.instance.name} (payload)"
        self.payload = payload

    def do(self, command: str) -> int:
        """Run a command of the payload's."""
        answer = self.payload.command(command, timeout=30)
        return answer.number("value") if "value" in answer.fields else 0

    def begin(self, command: str) -> None:
        """Type a command."""
        self.payload.console.send(f"{command}\n")


class HostAttacker:
    """The module mkraw in the host kernel."""

    name = "host (kernel module)"

    def __init__(self, host: Kernel) -> None:
        self._host = host
        found = host.channel.run(f"test -e /proc/mkraw || insmod {MODULE}")
        if found.status != 0:
            raise NotTried(f"the host has no module mkraw: {found.stderr.decode(errors='replace').strip()}")

    def do(self, command: str) -> int:
        """Run a command of the module's."""
        return int(self._host.run(f"echo {command} >/proc/mkraw && cat /proc/mkraw").partition("=")[2], 0)

    def begin(self, command: str) -> None:
        """Let a command begin in a while."""
        self._host.later(f"echo {command} >/proc/mkraw")


@dataclass(frozen=True)
class Victim:
    """The kernel that is attacked: ``ram`` is a page of its own, ``text`` an address in its code.

    ``apic_id`` is one of its CPUs, ``port`` the first I/O port of its console. ``interrupts`` returns
    how many came to that CPU so far, rescheduling ones or NMIs; ``beats`` a count that grows with time.
    """

    name: str
    ram: int
    text: int
    apic_id: int
    port: int
    console: Console
    interrupts: Callable[[int], int]
    beats: Callable[[], int]


@dataclass(frozen=True)
class Scene:
    """A machine of its own, an attacker and a victim on it."""

    lab: Lab
    attacker: Attacker
    victim: Victim

    def becomes(self, true: Callable[[], bool]) -> bool:
        """Wait until something is so; say whether it became so."""
        limit = time.monotonic() + SEEN_LIMIT * self.lab.accel.factor
        while not true():
            if time.monotonic() > limit:
                return False
            time.sleep(0.02)
        return True


@contextmanager
def staged(forks: Forks, direction: Direction, progress: Progress) -> Iterator[Scene]:
    """Yield a machine with an attacker and a victim, forked from a booted one. Raises HarnessError."""
    with forks.lab("booted", progress) as lab:
        first, *others = lab.topology.spawned
        payload = spawn_payload(lab, first)
        if direction == "spawned -> host":
            yield Scene(lab, PayloadAttacker(payload), _host(lab))
        elif direction == "host -> spawned":
            yield Scene(lab, HostAttacker(lab.host), _payload(lab, payload))
        else:
            if lab.dialect.numbers is None:
                # Where images have no ids (v1) it is always the first listed that starts; one that
                # runs already need not be listed.
                calls.call(lab.host, segments.UNLOAD).require()
            yield Scene(lab, PayloadAttacker(payload), _payload(lab, spawn_payload(lab, others[0])))


def _host(lab: Lab) -> Victim:
    host, iomem = lab.host, lab.host.iomem()
    code = next(one.region for one in iomem if one.name == "Kernel code")
    cpu = max(host.apic_ids())
    rows = {RESCHEDULE: "RES", NMI_VECTOR: "NMI"}
    logical = next(
        number for number, apic in parse_apic_ids(host.read("/proc/cpuinfo")).items() if apic == cpu
    )

    def interrupts(vector: int) -> int:
        header, *lines = host.read("/proc/interrupts").splitlines()
        column = header.split().index(f"CPU{logical}")
        return next(int(line.split()[1 + column]) for line in lines if line.split()[0] == f"{rows[vector]}:")

    return Victim(
        name=HOST,
        ram=_empty_page(
            lab, max(host.system_ram(), key=lambda region: (region.start < 1 << 30, region.size))
        ),
        text=code.start + PAGE,
        apic_id=cpu,
        port=_port(lab, HOST),
        console=host.console,
        interrupts=interrupts,
        beats=lambda: host.heartbeat().cpus[logical].beats,
    )


def _payload(lab: Lab, payload: Payload) -> Victim:
    def interrupts(vector: int) -> int:
        said = payload.command("interrupts").lines
        counts = [re.search(r"vector=(\S+) count=(\S+)", line) for line in said]
        return next((int(c[2], 0) for c in counts if c is not None and int(c[1], 0) == vector), 0)

    return Victim(
        name=f"{payload.instance.name} (payload)",
        ram=_empty_page(lab, payload.instance.ram),
        text=payload.boot.image.start + PAGE,
        apic_id=payload.boot.apic_id,
        port=_port(lab, payload.instance.name),
        console=payload.console,
        interrupts=interrupts,
        beats=payload.beats,
    )


def _port(lab: Lab, line: str) -> int:
    located = serialport.located(lab.topology.serial, lab.machine.qmp)
    return next(one.address for one in located if one.line == line)


def _empty_page(lab: Lab, region: Region) -> int:
    """Find a page of zeros, from the end on, so that nothing breaks that need not."""
    ram = ram_of(lab.machine)
    for page in range(region.end // PAGE - 1, region.start // PAGE, -1):
        if not any(ram.read(page * PAGE, PAGE)):
            return page * PAGE
    raise NotTried(f"there is no page of zeros in {region}")
