# SPDX-License-Identifier: MIT
"""System calls in a guest, with any argument, one by one or many at once.

A call is a line of text, as ``initramfs/mkctl/call.c`` explains; each runs in a process of its own,
so one that hangs or is killed is an outcome like any other.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import ceil

from harness.errors import HarnessError
from harness.multikernel.kernel import Kernel

LIMIT = 5.0
"""Seconds that a call has, before scaling by the accelerator; then it counts as hung."""

_OUTCOME = re.compile(r"(-?\d+) (\w+) ([\d.]+)( injected)?(?: out=([0-9a-f]+))?")


@dataclass(frozen=True)
class Outcome:
    """What became of one call: its ``result``, and ``error`` as a name (``EBUSY``; empty when it succeeded).

    ``error`` is ``hung`` for a call that did not return in time, and ``killed`` for one whose process
    got a signal. ``out`` is what the call wrote into its ``out:`` buffer. ``injected`` says that the
    allocation that a ``fail:N`` prefix names was reached, and failed.
    """

    call: str
    result: int
    error: str
    out: bytes = b""
    injected: bool = False

    @property
    def ok(self) -> bool:
        """Whether the call succeeded."""
        return not self.error

    def require(self) -> Outcome:
        """Return this outcome of a call that must succeed. Raises HarnessError when it did not."""
        if self.error:
            raise HarnessError(f"the call failed: {self}")
        return self

    def __str__(self) -> str:
        return f"{self.call} = {self.result}{' ' if self.error else ''}{self.error}"


@dataclass(frozen=True)
class Step:
    """How often a step of a race's loop ended in which way: counts by error name, "" for success."""

    call: str
    ended: Mapping[str, int]

    def __str__(self) -> str:
        ended = ", ".join(f"{count} {name or 'good'}" for name, count in sorted(self.ended.items()))
        return f"{self.call}: {ended}"


def calls(kernel: Kernel, lines: Iterable[str], *, limit: float = LIMIT) -> tuple[Outcome, ...]:
    """Make calls one after another in a kernel; return their outcomes. Raises HarnessError for a bad line."""
    lines = tuple(lines)
    seconds = ceil(limit * kernel.factor)
    text = "".join(f"{line}\n" for line in lines)
    said = kernel.run(f"mkctl calls {seconds} <<'END'\n{text}END", timeout=(limit + 1) * len(lines) + 10)
    told = said.splitlines()
    if len(told) != len(lines):
        raise HarnessError(f"{len(lines)} calls have {len(told)} outcomes", details=said)
    return tuple(_outcome(line, outcome) for line, outcome in zip(lines, told, strict=True))


def call(kernel: Kernel, line: str, *, limit: float = LIMIT) -> Outcome:
    """Make one call in a kernel."""
    return calls(kernel, [line], limit=limit)[0]


class Holder:
    """A process in a kernel that makes calls one after another, and keeps what they open while it lives.

    There is one in a ``folder`` of the guest's; ``pid`` is its process id.
    """

    def __init__(self, kernel: Kernel, folder: str = "/run/hold") -> None:
        self.kernel = kernel
        self._folder = folder
        self.pid = int(kernel.run(f"mkctl hold {folder}").removeprefix("pid="))

    def calls(self, lines: Iterable[str], *, limit: float = LIMIT) -> tuple[Outcome, ...]:
        """Make calls one after another, with ``limit`` seconds each; return their outcomes.

        Raises HarnessError for a bad line, which also ends the holder, and when a call hangs.
        """
        lines = tuple(lines)
        text = "".join(f"{line}\n" for line in lines)
        command = f"cat >{self._folder}/in <<'END'\n{text}END\ncat {self._folder}/out"
        told = self.kernel.run(command, timeout=limit * len(lines) + 10).splitlines()
        if len(told) != len(lines):
            raise HarnessError(f"{len(lines)} calls have {len(told)} outcomes", details="\n".join(told))
        return tuple(_outcome(line, outcome) for line, outcome in zip(lines, told, strict=True))

    def call(self, line: str, *, limit: float = LIMIT) -> Outcome:
        """Make one call."""
        return self.calls([line], limit=limit)[0]

    def end(self) -> None:
        """Kill the process, which closes all that it keeps; a new holder may use the folder."""
        self.kernel.run(
            f"kill -9 {self.pid}; while [ -e /proc/{self.pid} ]; do :; done; rm -r {self._folder}"
        )


def race(kernel: Kernel, loops: Iterable[str], *, seed: int, seconds: float) -> tuple[Step, ...]:
    """Run loops of calls (``;`` between a loop's calls) against each other for ``seconds`` in a kernel.

    Each loop is a process, which waits for 0 to 2 ms before each call, at random from ``seed``.
    """
    loops = tuple(loops)
    text = "".join(f"{loop}\n" for loop in loops)
    said = kernel.run(
        f"mkctl race {seed} {seconds * 1000:.0f} <<'END'\n{text}END", timeout=seconds + 4 * LIMIT
    )
    steps = []
    for line in said.splitlines():
        loop, step, *counts = line.split()
        ended = {name.replace("0", ""): int(n) for name, n in (count.split("=") for count in counts)}
        steps.append(Step(loops[int(loop)].split(";")[int(step)].strip(), ended))
    return tuple(steps)


def text(value: str) -> str:
    """Return a string as an argument, with its NUL."""
    return "s:" + re.sub(r"[^\w/.,:=@+-]", lambda c: "".join(f"%{b:02x}" for b in c[0].encode()), value)


def _outcome(line: str, told: str) -> Outcome:
    if told == "hung" or told.startswith("killed"):
        return Outcome(line, -1, told.split(maxsplit=1)[0])
    match = _OUTCOME.fullmatch(told)
    if match is None:
        raise HarnessError(f"the call {line!r} is not one: {told}")
    error = "" if match[2] == "0" else match[2]
    return Outcome(line, int(match[1]), error, bytes.fromhex(match[5] or ""), bool(match[4]))
