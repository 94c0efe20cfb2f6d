# SPDX-License-Identifier: MIT
"""What was done to a machine, in order: commands and files given to its kernels, faults from outside.

It is kept so that a failure can be repeated by hand. There are limits, and what they leave out is counted.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterable, Iterator

import msgspec

FIRST, LAST = 250, 250
"""Steps that are kept from the beginning and from the end."""
COMMAND, DATA, SAID = 16_384, 65_536, 3000
"""Characters of a command, bytes of a file and characters of an answer that are kept."""
OUTSIDE = "outside"
"""In place of a kernel's name: done to the machine, and not through a kernel."""
TYPED = "typed"
"""In place of an exit status: a line for a console, which has none."""


class Step(msgspec.Struct):
    """One thing done: a ``command`` of ``kernel``'s shell, or with ``file``, that ``data`` was written there.

    ``size`` is the file's in bytes; ``data`` is empty where it is too long. ``ended`` is the exit status, or
    why there is none; ``said`` the end of what was printed. It was done ``times`` times, one after another.
    """

    kernel: str
    command: str
    file: str = ""
    size: int = 0
    data: bytes = b""
    ended: str = ""
    said: str = ""
    times: int = 1


class Steps:
    """The steps of one machine; several threads may add to them."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._first: list[Step] = []
        self._last: deque[Step] = deque(maxlen=LAST)
        self._count = 0

    def __iter__(self) -> Iterator[Step]:
        with self._lock:
            return iter([*self._first, *self._last])

    @property
    def left_out(self) -> int:
        """How many steps between the first ones and the last are not kept."""
        return self._count - len(self._first) - len(self._last)

    def before(self, steps: Iterable[Step], left_out: int = 0) -> None:
        """Begin with what was done before this machine was forked."""
        with self._lock:
            for step in steps:
                self._keep(step)
            self._count += left_out

    def run(self, kernel: str, command: str) -> Step:
        """Add a command; return its step, to be told of its end."""
        with self._lock:
            newest = self._last[-1] if self._last else self._first[-1] if self._first else None
            if newest and newest.ended and (newest.kernel, newest.command) == (kernel, command[:COMMAND]):
                newest.times += 1
                return newest
            return self._keep(Step(kernel, command[:COMMAND]))

    def put(self, kernel: str, file: str, data: bytes) -> None:
        """Add a file that is written in a kernel."""
        with self._lock:
            kept = data if len(data) <= DATA else b""
            self._keep(Step(kernel, "", file, len(data), kept, "0"))

    def typed(self, kernel: str, line: str) -> None:
        """Add a line that is typed into a kernel's console."""
        with self._lock:
            self._keep(Step(kernel, line[:COMMAND], ended=TYPED))

    def outside(self, what: str) -> None:
        """Add what is done to the machine, and not by a kernel."""
        with self._lock:
            self._keep(Step(OUTSIDE, what, ended="0"))

    def _keep(self, step: Step) -> Step:
        self._count += 1
        (self._first if len(self._first) < FIRST else self._last).append(step)
        return step


def ended(step: Step, status: str, said: bytes | bytearray = b"") -> None:
    """Note how a command ended, and the end of what it printed."""
    step.ended = status
    step.said = said[-SAID:].decode("utf-8", "replace").strip()


def to_json(steps: Steps) -> str:
    """Return the steps as a file that ``from_json`` reads."""
    return msgspec.json.encode(tuple(steps)).decode()


def from_json(text: str) -> tuple[Step, ...]:
    """Read steps. Raises msgspec.MsgspecError when they are none."""
    return msgspec.json.decode(text, type=tuple[Step, ...])
