# SPDX-License-Identifier: MIT
"""A kernel's console: everything it ever printed, and waiting for what it will print."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import pairwise

from pexpect import EOF, TIMEOUT

from harness.klog.lines import STRIP
from harness.klog.splat import Splat
from harness.vm.patience import Patience
from harness.vm.pump import Pump
from harness.vm.stream import Stream
from harness.vm.transcript import History, Line, Transcript, split
from harness.vm.watch import (
    TAIL_MAX,
    TAIL_QUIET,
    Ended,
    Expectation,
    TimedOut,
    Trouble,
    Unseen,
    WaitError,
    Watch,
    evidence,
)

__all__ = ["Console", "Ended", "History", "Line", "TimedOut", "Trouble", "Unseen", "WaitError"]

SHOWN = 25
"""Lines of the console that an error shows."""
CAUSE_WAIT = 2.0
"""Seconds from a line's end to the cause of it."""


_MESSAGES = r"(?:\[ *\d+\.\d+\] [^\n]*\n)*"


def printed(text: str) -> str:
    """Return the pattern of ``text`` as user space prints it: with a kernel's messages anywhere in it."""
    return _MESSAGES.join(map(re.escape, text))


def readable(pattern: str) -> str:
    """Return a pattern for people: one that ``printed`` made as its text."""
    return re.sub(r"\\(.)", r"\1", pattern.replace(_MESSAGES, "")) if _MESSAGES in pattern else pattern


class Console:
    """One serial line for people and kernel messages, and what may be asked of it.

    Waiting moves a mark forward, as with any pexpect object; ``saw`` and ``lines`` look at
    everything. Any number of consoles may be waited for at once, each by one thread. ``ended``
    says why the machine runs no more, or None; ``factor`` stretches time-outs, which are given in
    seconds of a computer with KVM. The console of a resumed machine begins with the ``history`` of
    the frozen one, which is there to be looked at and not waited for.
    """

    def __init__(
        self,
        pump: Pump,
        *,
        ended: Callable[[], str | None],
        factor: float = 1.0,
        history: History | None = None,
    ) -> None:
        self.name = pump.name
        self._pump = pump
        self._ended = ended
        self._begun = 0
        self._factor = factor
        past, now = history or History(), time.monotonic()
        self._data = Transcript()
        for (start, ago), (end, _) in pairwise((*past.stamps, (len(past.data), 0.0))):
            self._data.append(past.data[start:end], now + ago)
        self._watch = Watch(self._data.read)
        self._watch.feed(past.data)
        self._changed = threading.Condition()
        self._stream = Stream(
            self._data, self._changed, self._watch, lambda: pump.ended or ended() is not None
        )
        pump.subscribe(self._take)

    def subscribe(self, listener: Callable[[bytes, float], None]) -> Callable[[], None]:
        """Call ``listener`` with bytes and monotonic time as they come, in the pump's thread.

        It must not block. Returns a function that ends the subscription.
        """
        return self._pump.subscribe(listener)

    def wake(self) -> None:
        """Let every wait look again at whether the machine still runs."""
        with self._changed:
            self._changed.notify_all()

    @property
    def transcript(self) -> bytes:
        """Every byte so far, exactly as printed."""
        return self._data.read()

    def read(self, start: int, end: int | None = None) -> bytes:
        """Return the bytes from position ``start`` to ``end``, by default all that came since."""
        return self._data.read(start, end)

    @property
    def text(self) -> str:
        """Everything so far, as text with plain line ends."""
        return self.transcript.decode("utf-8", "replace").replace("\r\n", "\n")

    def lines(self) -> list[Line]:
        """Return every line so far with its time; the last one may be unfinished."""
        return list(self._data.lines())

    def history(self) -> History:
        """Return everything so far as the history of a machine that is being frozen now."""
        now = time.monotonic()
        with self._changed:
            stamps = self._data.stamps()
            return History(self._data.read(), tuple((start, at - now) for start, at in stamps))

    def tail(self, count: int = SHOWN) -> str:
        """Return the last lines, safe for a terminal and a report."""
        end = self._data.read(max(0, len(self._data) - 400 * count))
        lines = [STRIP.sub("", line) for line in end.decode("utf-8", "replace").splitlines()]
        return "\n".join([line for line in lines if line.strip()][-count:])

    def last_word(self) -> str:
        """Return the last line in words, and how long ago it came."""
        now = time.monotonic()
        for line in reversed(self.last(20)[0]):
            text = STRIP.sub("", line.text).strip()
            if text:
                return f"its last line came {max(0.0, now - line.time):.0f} s ago: {text[:120]!r}"
        return "it has printed nothing"

    def last(self, count: int, width: int = 400) -> tuple[list[Line], int]:
        """Return the last lines with their times, and how many bytes are before them.

        Of lines that are longer than ``width`` on average there are fewer: it does not look further back.
        """
        start = max(0, len(self._data) - width * count)
        data = self._data.read(start)
        if start:
            # The line that is cut begins elsewhere.
            cut = data.find(b"\n") + 1
            start, data = start + cut, data[cut:]
        older = data.splitlines(keepends=True)[:-count]
        cut = sum(map(len, older))
        return split(data[cut:], self._data.stamps(), start + cut), start + cut

    def saw(self, pattern: str | re.Pattern[str]) -> bool:
        """Return whether the regular expression matches anywhere in everything printed so far.

        Of more than 4 MiB, a match can have 1 MiB.
        """
        return self._data.search(pattern)

    @property
    def mark(self) -> int:
        """How many bytes have been printed so far, for ``trouble``."""
        return len(self._data)

    def splats(self, since: int = 0) -> tuple[Splat, ...]:
        """Return every splat told after byte ``since``, expected or not; the last may still grow."""
        with self._changed:
            return tuple(splat for splat in self._watch.splats if splat.offset > since)

    def splat(self, since: int = 0) -> Splat | None:
        """Return the first splat told after byte ``since`` that speaks against waiting for this kernel.

        An expected one does not, but for a panic: nobody will answer.
        """
        with self._changed:
            since = max(since, self._begun)
            return self._watch.first_unexpected(since) or self._watch.panic(since)

    def renew(self) -> None:
        """Say that another kernel prints from now on, whom the last one's end does not concern."""
        self._begun = self.mark

    def unexpected(self, since: int = 0) -> Splat | None:
        """Return the first splat told after byte ``since`` that nobody expected."""
        with self._changed:
            return self._watch.first_unexpected(since)

    def trouble(self, since: int = 0) -> str | None:
        """Return the line that told of ``splat(since)``, or None."""
        splat = self.splat(since)
        return splat.line if splat else None

    @property
    def panicked(self) -> bool:
        """Whether the kernel has said that it panicked, since it began."""
        with self._changed:
            return self._watch.panic(self._begun) is not None

    @contextmanager
    def expected(
        self, pattern: str | re.Pattern[str], *, required: bool = True, timeout: float = 5.0
    ) -> Iterator[Expectation]:
        """Allow splats on purpose within the block: those whose title or first lines ``pattern`` matches.

        They end no wait and no command, except that a command ends when its kernel panics. Every
        other splat does. When the block is over and none came within ``timeout`` seconds more,
        Unseen is raised, unless it is not ``required``. The object that the block gets holds those
        that came, whole, once it is over.
        """
        expectation = Expectation(re.compile(pattern), self.mark)
        with self._changed:
            self._watch.expectations.append(expectation)
        try:
            yield expectation
            if required:
                with self._changed:
                    self._changed.wait_for(
                        lambda: any(map(expectation.allows, self._watch.splats)) or self._ended() is not None,
                        timeout * self._factor,
                    )
            # What the kernel has printed may not have been read yet.
            self._pump.drain()
            if self.splats(expectation.since):
                self.settle()
        finally:
            expectation.until = self.mark
            expectation.splats = tuple(filter(expectation.allows, self.splats(expectation.since)))
        if required and not expectation.splats:
            raise self._error(
                Unseen, f"{self.name}: no splat that matches {expectation.pattern.pattern!r} came"
            )

    def send(self, text: str) -> None:
        """Type ``text``; a command needs its line end."""
        self.write(text.encode())

    def write(self, data: bytes) -> None:
        """Type bytes as they are, such as a person's keys. Never blocks."""
        self._pump.write(data)

    def expect(
        self, pattern: str | re.Pattern[str], timeout: float = 30.0, *, trouble: bool | tuple[()] = True
    ) -> re.Match[str]:
        r"""Wait until the regular expression ``pattern`` matches what was not yet waited for.

        Lines end in ``\r\n``. A splat that is not ``expected`` ends the wait at once with Trouble, unless
        ``trouble`` is False. Raises TimedOut, Trouble or Ended.
        """
        wanted = re.compile(pattern)
        limit, shown = timeout * self._factor, readable(wanted.pattern)
        self._stream.watching, self._stream.trouble = bool(trouble), None
        patience = Patience(limit, f"{shown!r} on {self.name}'s console", self.last_word)
        while True:
            index = self._stream.expect_list([wanted, EOF, TIMEOUT], timeout=max(patience.left, 0.0))
            if index != 2 or patience.over():
                break
        if index == 0:
            match = self._stream.match
            assert isinstance(match, re.Match)
            return match
        awaited = f"while {shown!r} was awaited"
        if index == 2:
            raise self._error(TimedOut, f"{self.name}: {shown!r} did not come in {limit:g} s")
        if self._stream.trouble is not None:
            splat, last = self.evidence(self._stream.trouble)
            assert splat is not None
            raise Trouble(
                f"{self.name}: the kernel printed {splat.line!r} {awaited}", splat=splat, details=last
            )
        with self._changed:
            # The line may close a moment before the cause is known.
            self._changed.wait_for(lambda: self._ended() is not None, CAUSE_WAIT)
        cause = self._ended() or "its line was closed"
        raise self._error(Ended, f"{self.name}: {cause}, {awaited}")

    def settle(self) -> None:
        """Wait until a splat is whole: nothing has come for TAIL_QUIET seconds, at most TAIL_MAX."""
        give_up = time.monotonic() + TAIL_MAX * self._factor
        with self._changed:
            while not self._watch.settled and self._changed.wait(TAIL_QUIET) and time.monotonic() < give_up:
                pass

    def evidence(self, splat: Splat | None) -> tuple[Splat | None, str]:
        """Wait until everything is printed; return the splat whole, and what an error shows."""
        self.settle()
        tail = self.tail() or "(nothing)"
        if splat is not None:
            told = splat.offset
            splat = next((one for one in self.splats() if one.offset == told), splat)
            tail = evidence(splat, tail)
        return splat, f"The last lines of {self.name}'s console:\n{tail}"

    def _error(self, kind: type[WaitError], what: str) -> WaitError:
        return kind(what, details=f"The last lines of {self.name}'s console:\n{self.tail() or '(nothing)'}")

    def _take(self, data: bytes, now: float) -> None:
        with self._changed:
            if data:
                self._data.append(data, now)
                self._watch.feed(data)
            self._changed.notify_all()
