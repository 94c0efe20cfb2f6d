# SPDX-License-Identifier: MIT
"""What each vCPU does: whose kernel it runs, where in it, and whether it moves between two looks."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from harness.diagnose.images import Image, image_of, placed
from harness.diagnose.space import Space
from harness.diagnose.stacks import Frame, stack_of
from harness.errors import HarnessError
from harness.lab import Lab
from harness.model import Layout
from harness.multikernel.layout import claimed_layout
from harness.oracle.pagetables import levels_of
from harness.oracle.processors import FIRST_MIB, processor_of
from harness.vm.ram import ram_of
from harness.vm.registers import Registers, registers_of
from harness.vm.state import State

APART = 0.7
"""Seconds between two looks."""
INTERRUPTS = 1 << 9
"""The flag in RFLAGS that lets interrupts in."""
PAYLOAD, PAYLOAD_CODE = "payload: ready", "payload"
_PAYLOAD_AT = re.compile(rb"payload: started image=(0x[0-9a-f]+) end=(0x[0-9a-f]+)")


@dataclass(frozen=True)
class Vcpu:
    """One vCPU at one moment; ``kernel`` is empty where it runs none that is known."""

    index: int
    kernel: str
    registers: Registers
    stack: tuple[Frame, ...]

    @property
    def deaf(self) -> bool:
        """Whether interrupts are off."""
        return not self.registers["RFL"] & INTERRUPTS

    @property
    def user(self) -> bool:
        """Whether it runs a program, not the kernel."""
        return self.registers.segments["CS"].selector & 3 == 3

    @property
    def started(self) -> bool:
        """Whether any kernel has taken it into use: one that waits for its start has no page tables."""
        return levels_of(self.registers) > 0


@dataclass(frozen=True)
class Seen:
    """A vCPU at one or two looks; ``after`` is None where the machine stands still for good."""

    before: Vcpu
    after: Vcpu | None = None

    @property
    def last(self) -> Vcpu:
        """The later look."""
        return self.after or self.before

    @property
    def kernel(self) -> str:
        """The kernel that it runs."""
        return self.last.kernel

    @property
    def place(self) -> str:
        """The function that it is in, or the address."""
        return self.last.stack[0].name if self.last.stack else ""

    @property
    def halted(self) -> bool:
        """Whether it waits, at both looks."""
        return self.last.registers.halted and (self.after is None or self.before.registers.halted)

    @property
    def moves(self) -> bool:
        """Whether it was somewhere else at the second look: in other functions, not only in a loop of one."""
        if self.after is None:
            return False
        return [one.name for one in self.before.stack] != [one.name for one in self.after.stack]

    @property
    def spins(self) -> bool:
        """Whether it runs kernel code without getting anywhere."""
        # All of the payload is one place: only with interrupts off it surely does not come to its work.
        told = self.place != PAYLOAD_CODE or self.deaf
        both = self.after is not None and told and not self.last.user and not self.before.user
        return both and self.last.started and not (self.halted or self.idle or self.moves)

    @property
    def idle(self) -> bool:
        """Whether it has nothing to do, and wakes up when there is."""
        return not self.deaf and any(frame.function == "do_idle" for frame in self.last.stack)

    @property
    def deaf(self) -> bool:
        """Whether interrupts were off at each look."""
        return self.last.deaf and self.before.deaf

    def __str__(self) -> str:
        if not self.last.started:
            return "waits for its start" if self.halted else "runs start-up code"
        if self.idle:
            return "is idle"
        off = " with interrupts off" if self.deaf else ""
        if self.halted:
            return f"is halted{off}: it waits for {'nothing but an NMI or INIT' if off else 'an interrupt'}"
        if self.after is None:
            return f"was in {self.place}{off} when the machine stopped"
        if self.last.user:
            return "runs a program"
        return f"spins in {self.place}{off}" if self.spins else f"runs, now in {self.place}{off}"


def look(lab: Lab) -> tuple[Seen, ...]:
    """Look at all vCPUs, twice where the machine runs, which is stopped for some ms each time.

    Raises HarnessError when QEMU is gone.
    """
    running = lab.machine.state is State.LIVE
    # The host is not asked what it granted besides: it may be what hangs.
    images: dict[str, Image | None] = {}
    before = _once(lab, images)
    if not running:
        return tuple(map(Seen, before))
    time.sleep(APART)
    try:
        after = _once(lab, images)
    except HarnessError:
        return tuple(map(Seen, before))
    return tuple(Seen(one, other) for one, other in zip(before, after, strict=True))


@contextmanager
def still(lab: Lab) -> Iterator[None]:
    """Let the machine stand still, where it runs, while the block does."""
    running = lab.machine.state is State.LIVE
    if running:
        lab.machine.freeze()
    try:
        yield
    finally:
        if running and lab.machine.ended() is None:
            lab.machine.thaw()


def layout_of(lab: Lab) -> Layout:
    """Return who claims which memory, by what the harness itself had granted."""
    pool = lab.topology.pool.region if lab.dialect.pooled else None
    return claimed_layout(ram_of(lab.machine).regions, pool, (), lab.granted)


def _once(lab: Lab, images: dict[str, Image | None]) -> tuple[Vcpu, ...]:
    with still(lab):
        ram, layout = ram_of(lab.machine), layout_of(lab)
        found = []
        for one in registers_of(lab.machine.qmp):
            root = processor_of(one).cr3
            owner = layout.owner_of(root) if levels_of(one) and root >= FIRST_MIB else None
            name = owner.name if owner else ""
            if owner is not None and name not in images:
                images[name] = None if runs_payload(lab, name) else placed(image_of(lab, name), ram, owner)
            stack = stack_of(images.get(name), Space(ram, one), one)
            if name and images[name] is None:
                stack = (_in_payload(lab, name, one["RIP"]),)
            found.append(Vcpu(one.index, name, one, stack))
        return tuple(found)


def _in_payload(lab: Lab, kernel: str, address: int) -> Frame:
    for found in reversed(_PAYLOAD_AT.findall(lab.machine.console(kernel).transcript)):
        start, end = (int(one, 16) for one in found)
        if start <= address < end:
            return Frame(address, PAYLOAD_CODE, address - start)
    return Frame(address)


def runs_payload(lab: Lab, kernel: str) -> bool:
    """Say whether the payload, which has no symbols, runs in place of a Linux."""
    console = lab.machine.consoles.get(kernel)
    if console is None:
        return False
    text = console.transcript
    return text.rfind(PAYLOAD.encode()) > text.rfind(b"Linux version ")


def listed(seen: Sequence[Seen]) -> str:
    """Return a line for all vCPUs of a kernel that do the same."""
    groups: dict[tuple[str, str], list[int]] = {}
    for one in seen:
        groups.setdefault((one.kernel or "no kernel", str(one)), []).append(one.last.index)
    return "\n".join(
        f"vCPU {', '.join(map(str, numbers))}, {kernel}: {what}" for (kernel, what), numbers in groups.items()
    )


def stacks(
    seen: Sequence[Seen], place: Callable[[str, Frame], str] = lambda kernel, frame: "", frames: int = 100
) -> str:
    """Return every vCPU with its stack and, where that is another one, what it was before.

    ``place`` returns file and line of a kernel's frame.
    """
    parts = []
    for one in seen:
        parts.append(f"vCPU {one.last.index}, {one.kernel or 'no kernel'}: {one}")
        parts += [_line(frame, place(one.kernel, frame)) for frame in one.last.stack[:frames]]
        if one.moves:
            parts.append(f"  {APART:g} s before:")
            parts += [_line(frame, "") for frame in one.before.stack[:frames]]
    return "\n".join(parts)


def _line(frame: Frame, place: str) -> str:
    return f"    {frame!s:<44} {place}".rstrip()


def registers_text(seen: Sequence[Seen]) -> str:
    """Return all registers of every vCPU at the last look."""
    return "\n".join(
        f"vCPU {one.last.index}: "
        + " ".join(f"{name}={value:#x}" for name, value in one.last.registers.values.items())
        for one in seen
    )
