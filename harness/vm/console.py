# SPDX-License-Identifier: MIT
"""A kernel's console: everything it ever printed, and waiting for what it will print."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable

from pexpect import EOF, TIMEOUT
from pexpect.spawnbase import SpawnBase

from harness.errors import HarnessError
from harness.vm.pump import Pump
from harness.vm.transcript import History, Line, split

__all__ = ["TROUBLE", "Console", "Ended", "History", "Line", "TimedOut", "Trouble", "WaitError"]

TROUBLE: tuple[str, ...] = (
    r"Kernel panic - not syncing",
    r"Oops(?::| - )",
    r"BUG: ",
    r"kernel BUG at ",
    r"general protection fault",
    r"double fault",
    r"(?:page|stack) fault in interrupt",
    r"divide error: ",
    r"Unable to handle kernel",
    r"No working init found",
)
"""What a kernel prints when it cannot go on; each wait ends at once when one of these comes.

Stalls and warnings are not among them: on a loaded computer under TCG they come without a fault.
"""

_PANIC = re.compile(TROUBLE[0])
_TROUBLE = re.compile("|".join(TROUBLE).encode())
TROUBLES_KEPT = 1000
_STRIP = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|[\x00-\x08\x0b-\x1f\x7f-\x9f]")
SHOWN = 25
"""Lines of the console that an error shows."""
CAUSE_WAIT = 2.0
"""Seconds from a line's end to the cause of it."""
TAIL_QUIET, TAIL_MAX = 0.5, 4.0
"""After a sign of trouble: seconds of silence that end the splat, and how long to wait for it."""


class WaitError(HarnessError):
    """What was awaited on a console did not come."""


class TimedOut(WaitError):
    """It did not come in time."""


class Trouble(WaitError):
    """The kernel printed something that means trouble before it came."""


class Ended(WaitError):
    """The machine ended or stopped before it came."""


class _Spawn(SpawnBase):  # type: ignore[misc]
    """pexpect on what a console's pump has read. Its end of file means: the machine has ended."""

    def __init__(self, console: Console) -> None:
        super().__init__(encoding="utf-8", codec_errors="replace", maxread=65536)
        self._console = console
        self._position = console.mark

    def read_nonblocking(self, size: int = 1, timeout: float | None = None) -> str:
        data = self._console._read(self._position, size, timeout)
        self._position += len(data)
        return str(self._decoder.decode(data))


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
        self._factor = factor
        past, now = history or History(), time.monotonic()
        self._data = bytearray(past.data)
        self._stamps = [(position, now + ago) for position, ago in past.stamps]
        self._troubles: list[tuple[int, str]] = []
        self._scanned = 0
        self._changed = threading.Condition()
        self._spawn = _Spawn(self)
        self._scan()
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
        with self._changed:
            return bytes(self._data)

    @property
    def text(self) -> str:
        """Everything so far, as text with plain line ends."""
        return self.transcript.decode("utf-8", "replace").replace("\r\n", "\n")

    def lines(self) -> list[Line]:
        """Return every line so far with its time; the last one may be unfinished."""
        with self._changed:
            return split(bytes(self._data), list(self._stamps))

    def history(self) -> History:
        """Return everything so far as the history of a machine that is being frozen now."""
        now = time.monotonic()
        with self._changed:
            return History(bytes(self._data), tuple((start, at - now) for start, at in self._stamps))

    def tail(self, count: int = SHOWN) -> str:
        """Return the last lines, safe for a terminal and a report."""
        with self._changed:
            end = bytes(self._data[-400 * count :])
        lines = [_STRIP.sub("", line) for line in end.decode("utf-8", "replace").splitlines()]
        return "\n".join([line for line in lines if line.strip()][-count:])

    def saw(self, pattern: str | re.Pattern[str]) -> bool:
        """Return whether the regular expression matches anywhere in everything printed so far."""
        return re.search(pattern, self.text) is not None

    @property
    def mark(self) -> int:
        """How many bytes have been printed so far, for ``trouble``."""
        return len(self._data)

    def trouble(self, since: int = 0) -> str | None:
        """Return the first line that means trouble and ended after byte ``since``, or None."""
        with self._changed:
            return next((line for end, line in self._troubles if end > since), None)

    @property
    def panicked(self) -> bool:
        """Whether the kernel has said that it panicked."""
        with self._changed:
            return any(_PANIC.search(line) for _, line in self._troubles)

    def send(self, text: str) -> None:
        """Type ``text``; a command needs its line end."""
        self._pump.write(text.encode())

    def expect(
        self, pattern: str | re.Pattern[str], timeout: float = 30.0, *, trouble: tuple[str, ...] = TROUBLE
    ) -> re.Match[str]:
        r"""Wait until the regular expression ``pattern`` matches what was not yet waited for.

        Lines end in ``\r\n``. ``trouble`` are patterns that end the wait at once with Trouble; give
        ``()`` where trouble is what the test is about. Raises TimedOut, Trouble or Ended.
        """
        wanted = re.compile(pattern)
        limit = timeout * self._factor
        patterns = [wanted, *map(re.compile, trouble), EOF, TIMEOUT]
        index = self._spawn.expect_list(patterns, timeout=limit)
        if index == 0:
            match = self._spawn.match
            assert isinstance(match, re.Match)
            return match
        awaited = f"while {wanted.pattern!r} was awaited"
        if index == len(patterns) - 1:
            raise self._error(TimedOut, f"{self.name}: {wanted.pattern!r} did not come in {limit:g} s")
        if index == len(patterns) - 2:
            with self._changed:
                # The line may close a moment before the cause is known.
                self._changed.wait_for(lambda: self._ended() is not None, CAUSE_WAIT)
            cause = self._ended() or "its line was closed"
            raise self._error(Ended, f"{self.name}: {cause}, {awaited}")
        seen = self._spawn.match.group().strip()
        self.settle()
        raise self._error(Trouble, f"{self.name}: the kernel printed {seen!r} {awaited}")

    def settle(self) -> None:
        """Wait until nothing has come for TAIL_QUIET seconds, at most TAIL_MAX."""
        give_up = time.monotonic() + TAIL_MAX * self._factor
        with self._changed:
            while self._changed.wait(TAIL_QUIET) and time.monotonic() < give_up:
                pass

    def _error(self, kind: type[WaitError], what: str) -> WaitError:
        return kind(what, details=f"The last lines of {self.name}'s console:\n{self.tail() or '(nothing)'}")

    def _take(self, data: bytes, now: float) -> None:
        with self._changed:
            if data:
                self._stamps.append((len(self._data), now))
                self._data += data
                self._scan()
            self._changed.notify_all()

    def _scan(self) -> None:
        """Look for trouble in the lines that have become complete."""
        end = self._data.rfind(b"\n", self._scanned) + 1
        if not end:
            return
        for found in _TROUBLE.finditer(self._data, self._scanned, end):
            start = self._data.rfind(b"\n", 0, found.start()) + 1
            stop = self._data.find(b"\n", found.end())
            line = _STRIP.sub("", self._data[start:stop].decode("utf-8", "replace")).strip()
            if len(self._troubles) < TROUBLES_KEPT:
                self._troubles.append((stop, line))
        self._scanned = end

    def _read(self, position: int, size: int, timeout: float | None) -> bytes:
        """Wait for bytes after ``position``. Raises pexpect's TIMEOUT or EOF."""

        def ready() -> bool:
            return len(self._data) > position or self._pump.ended or self._ended() is not None

        with self._changed:
            if not self._changed.wait_for(ready, timeout):
                raise TIMEOUT("nothing came")
            if len(self._data) > position:
                return bytes(self._data[position : position + size])
            raise EOF("the machine has ended")
