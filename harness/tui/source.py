# SPDX-License-Identifier: MIT
"""What a view looks at: a machine's consoles, and questions about it."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Literal, Protocol

from harness.errors import UsageError
from harness.lab import Lab
from harness.multikernel.layout import HOST
from harness.tui.questions import Questions, stopped

Question = Literal["monitor", "map", "vcpus", "toggle", "attach", "gdb", "dump", "go on", "end"]
"""``monitor`` takes a line for QEMU's monitor; ``map`` a width in columns; ``toggle`` stops the machine
or lets it run; ``gdb`` opens
the stub and returns a script's path; ``dump`` takes a kernel's name and returns the paths of a core file
and its vmlinux; ``go on`` and ``end`` are for whoever waits for a person to look; the others take nothing."""
RECENT = 1 << 20
"""Bytes of a console that a view can look back, where there are as many."""


class Source(Protocol):
    """A machine to look at. Any thread may call its methods; only ``ask`` takes its time."""

    title: str
    kernels: tuple[str, ...]

    def size(self, kernel: str) -> int:
        """Return how many bytes the kernel's console has printed."""

    def read(self, kernel: str, start: int, end: int | None = None) -> bytes:
        """Return these bytes; of those more than RECENT before the end there may be none."""

    def type(self, kernel: str, data: bytes) -> None:
        """Type on the kernel's console. Never blocks."""

    def ask(self, question: Question, argument: str = "") -> str:
        """Return the answer as text. Raises HarnessError."""

    def state(self) -> str:
        """Say what the machine does: it runs, it is stopped, or why it ended."""

    def watch(self, changed: Callable[[], None]) -> None:
        """Call ``changed`` whenever something was printed. It must not block."""


class LabSource:
    """A machine of this process. ``title`` stands in the status line."""

    def __init__(self, lab: Lab, title: str, kernels: Sequence[str] = ()) -> None:
        self.lab = lab
        self.title = title
        self.kernels = tuple(kernels) or (HOST, *(one.name for one in lab.topology.spawned))
        self.name = ""
        """What it is served as, where it is."""
        self.released: Callable[[str], None] | None = None
        """Called with ``go on`` or ``end`` where somebody waits for that."""
        self._questions = Questions(lab)

    def size(self, kernel: str) -> int:
        """Return how many bytes the kernel's console has printed."""
        return self.lab.machine.console(kernel).mark

    def read(self, kernel: str, start: int, end: int | None = None) -> bytes:
        """Return these bytes."""
        return self.lab.machine.console(kernel).read(start, end)

    def type(self, kernel: str, data: bytes) -> None:
        """Type on the kernel's console."""
        self.lab.machine.console(kernel).write(data)

    def ask(self, question: Question, argument: str = "") -> str:
        """Return the answer as text. Raises HarnessError."""
        if question in {"go on", "end"}:
            if self.released is None:
                raise UsageError("nobody waits for that: this machine is no test's")
            self.released(question)
            return f"told it: {question}"
        return self._questions.answer(question, self.name if question == "attach" else argument)

    def state(self) -> str:
        """Say what the machine does."""
        machine = self.lab.machine
        ended = machine.ended()
        if ended is not None:
            return f"ended: {ended}"
        return "stopped" if stopped(machine) else "running"

    def watch(self, changed: Callable[[], None]) -> None:
        """Call ``changed`` whenever something was printed."""
        for console in self.lab.machine.consoles.values():
            console.subscribe(functools.partial(_call, changed))


def _call(changed: Callable[[], None], data: bytes, now: float) -> None:
    changed()
