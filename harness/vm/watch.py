# SPDX-License-Identifier: MIT
"""What the splats on a console mean to those who wait for something else."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from harness.errors import HarnessError
from harness.klog.leaving import LOOK_BACK, last_words
from harness.klog.splat import Reader, Severity, Splat
from harness.klog.table import STALLS

TAIL_QUIET, TAIL_MAX = 0.5, 4.0
"""After a sign of trouble: seconds of silence that end the splat, and how long to wait for it."""


class WaitError(HarnessError):
    """What was awaited on a console did not come."""


class TimedOut(WaitError):
    """It did not come in time."""

    timed_out = True


class Ended(WaitError):
    """The machine ended or stopped before it came."""


class Unseen(WaitError):
    """A splat that was expected did not come."""


class Trouble(WaitError):
    """The kernel printed something that means trouble before it came: ``splat``."""

    def __init__(self, what: str, *, splat: Splat, details: str = "") -> None:
        super().__init__(what, details=details, advice=advice(splat))
        self.splat = splat


def advice(splat: Splat) -> str:
    """Say what to do about a splat where that is not plain."""
    if splat.kind not in STALLS:
        return ""
    return "stalls also come on a computer with too little time for its guests: try again with less load"


def evidence(splat: Splat, tail: str) -> str:
    """Return the whole splat and, where it does not show that, the end of the console."""
    if splat.text.partition("\n")[0].strip() in tail:
        return tail
    return f"{splat.text}\n[...]\n{tail}"


@dataclass
class Expectation:
    """A splat on purpose. ``splats`` holds those that came, once the block is over."""

    pattern: re.Pattern[str]
    since: int
    until: int | None = None
    splats: tuple[Splat, ...] = ()

    def covers(self, splat: Splat) -> bool:
        """Whether the splat came in the block."""
        return self.since < splat.offset and (self.until is None or splat.offset <= self.until)

    def allows(self, splat: Splat) -> bool:
        """Whether the pattern matches the title, or what was printed up to the telling line.

        The rest is left out: everybody's functions are in a call trace.
        """
        head = splat.text[: splat.text.find(splat.line) + len(splat.line)]
        return self.covers(splat) and self.pattern.search(f"{splat.title}\n{head}") is not None


class Watch:
    """The splats of one console, of which ``read`` returns the bytes. Not locked: its console does that."""

    def __init__(self, read: Callable[[int, int], bytes]) -> None:
        self.expectations: list[Expectation] = []
        self._read = read
        self._last_words: dict[int, bool] = {}
        self._reader = Reader()
        self._heard = 0.0

    def feed(self, data: bytes) -> None:
        """Take in what the console has printed."""
        self._heard = time.monotonic()
        self._reader.feed(data)

    @property
    def splats(self) -> tuple[Splat, ...]:
        """Every splat so far."""
        return self._reader.splats

    def ending(self, since: int) -> Iterator[Splat]:
        """Return the splats told after byte ``since`` that end a wait, unless they are expected."""
        return (
            s
            for s in self.splats
            if s.offset > since
            and (
                s.severity > Severity.REPORT or (s.severity == Severity.REPORT and not self._is_last_words(s))
            )
        )

    def _is_last_words(self, splat: Splat) -> bool:
        known = self._last_words.get(splat.offset)
        if known is None:
            before = self._read(max(0, splat.offset - LOOK_BACK), splat.offset)
            known = self._last_words[splat.offset] = last_words(splat.line, before)
        return known

    def panic(self, since: int = 0) -> Splat | None:
        """Return the first panic told after byte ``since``."""
        return next((s for s in self.ending(since) if s.kind == "panic"), None)

    @property
    def settled(self) -> bool:
        """Whether there is nothing to wait for: the kernel has said its last word."""
        return bool(self.splats) and self.splats[-1].kind == "panic" and not self.splats[-1].open

    def unexpected(self, splat: Splat) -> bool | None:
        """Whether nobody expects the splat; None while its title may still change that."""
        covering = [e for e in self.expectations if e.covers(splat)]
        if any(e.allows(splat) for e in covering):
            return False
        unfinished = splat.open and time.monotonic() - self._heard < TAIL_QUIET
        return None if covering and unfinished else True

    def first_unexpected(self, since: int) -> Splat | None:
        """Return the first splat told after byte ``since`` that nobody expects, or None so far."""
        for splat in self.ending(since):
            verdict = self.unexpected(splat)
            if verdict is not False:
                return splat if verdict else None
        return None
