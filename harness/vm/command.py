# SPDX-License-Identifier: MIT
"""Commands that a guest runs: one under way, and what came of it."""

from __future__ import annotations

from dataclasses import dataclass, field

from harness.errors import HarnessError
from harness.klog.splat import Splat
from harness.vm.patience import Patience
from harness.vm.watch import advice as hint

BRIEF = 200
"""Characters of a command that an error shows."""
SHOWN = 4000
"""Bytes of each stream that an error shows."""


class ChannelError(HarnessError):
    """A command could not be carried out: no agent, a time-out, trouble in the kernel (``splat``)."""

    def __init__(
        self,
        what: str,
        *,
        details: str = "",
        advice: str = "",
        splat: Splat | None = None,
        timed_out: bool | None = None,
    ) -> None:
        hinted = advice or (hint(splat) if splat else "")
        super().__init__(what, details=details, advice=hinted, timed_out=timed_out)
        self.splat = splat


class CommandFailed(HarnessError):
    """A command ended with another status than 0."""


def shown(stream: bytes | bytearray) -> str:
    """Return the end of a stream, safe for a terminal and a report."""
    text = stream[-SHOWN:].decode("utf-8", "backslashreplace")
    return "".join(c if c.isprintable() or c == "\n" else repr(c)[1:-1] for c in text).strip() or "(nothing)"


def brief(command: str) -> str:
    """Return a command in one line, for an error: its beginning, quoted, and how much more there is."""
    first, *more = command.strip().splitlines() or [""]
    cut = first if len(first) <= BRIEF else f"{first[:BRIEF]}..."
    return repr(cut) + (f" (and {len(more)} more lines)" if more else "")


@dataclass(frozen=True)
class Result:
    """How a command ended: ``status`` is its shell's exit status, or minus the signal that killed that.

    A program that a signal kills makes its shell end with 128 plus the signal.
    """

    kernel: str
    command: str
    status: int
    stdout: bytes
    stderr: bytes
    seconds: float

    @property
    def text(self) -> str:
        """Standard output as text, without the white space around it."""
        return self.stdout.decode("utf-8", "replace").strip()

    def check(self) -> Result:
        """Return this result, or raise CommandFailed with both streams when the status is not 0."""
        if self.status:
            raise CommandFailed(
                f"{self.kernel}: the command {brief(self.command)} ended with status {self.status}",
                details=f"stdout: {shown(self.stdout)}\nstderr: {shown(self.stderr)}",
            )
        return self


@dataclass
class Job:
    """One command or file under way; ``limit`` is when to give up (monotonic seconds).

    ``patience`` tells of a wait that takes long, where somebody waits for the user's sake.
    """

    what: str
    limit: float
    session: int
    number: int
    mark: int | None
    """How far the console was, or None when trouble there is to be ignored."""
    stdout: bytearray = field(default_factory=bytearray)
    stderr: bytearray = field(default_factory=bytearray)
    exit: tuple[int, int] | None = None
    """Wait status and errno."""
    patience: Patience | None = None
