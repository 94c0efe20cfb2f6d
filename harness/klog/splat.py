# SPDX-License-Identifier: MIT
"""Finding splats in what a kernel prints: in a whole log, or as it comes."""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass

from harness.klog.lines import CUT, RULE, LogLine, find_function, read_line, stable
from harness.klog.table import MARKS, WORDS, End, Row, Severity, find_row

__all__ = ["Reader", "Severity", "Splat", "find_splats"]

LOOK_BACK = 6
"""How many lines before its first telling one a splat may have begun ("cut here", WARN's message)."""
TOLERANCE = 10
"""How many lines in a row that do not look like a splat's it may hold: other CPUs, lockdep's prose."""
GAP = 5.0
"""Seconds of the kernel's own time after which a line belongs to no splat before it."""
LINES_MAX = 1000
SPLATS_MAX = 1000
"""A kernel that warns without end fills no memory; a panic is always kept."""


@dataclass(frozen=True)
class Splat:
    """One report of trouble by a kernel.

    ``title`` is the same in every run; ``line`` is the line that told, ``text`` all lines, both with
    printk's prefixes and without control characters. ``first`` and ``last`` are line numbers from
    0, ``offset`` is the number of bytes up to the end of ``line``. An ``open`` one may still grow.
    """

    kind: str
    title: str
    severity: Severity
    first: int
    last: int
    offset: int
    line: str
    text: str
    open: bool


class _Growing:
    """A splat that is being printed."""

    def __init__(self, row: Row, named: str | None, what: str, lines: list[LogLine], offset: int) -> None:
        self.row = row
        self.severity = row.severity
        self.closed = row.end is End.LINE
        self.caller = lines[-1].caller
        self._named = named
        self._what = what
        self._lines = lines
        self._told = lines[-1]
        self._offset = offset
        self._time = lines[-1].time
        self._passed: list[LogLine] = []
        self._ended = False
        self._known: Splat | None = None

    @property
    def last(self) -> int:
        return self._lines[-1].index

    def offer(self, line: LogLine, row: Row | None) -> bool:
        """Take a line, or close and leave it. Lines between its own are taken with the next of its own."""
        mark = MARKS.get(self.row.end)
        if self._begins_another(line, row):
            self.closed = True
        elif mark is not None and not self._ended and mark.search(line.body):
            self._take(line)
            self._ended = True
            self.closed = self.row.end is End.PANIC
            return True
        elif row is not None or line.in_splat:
            self.severity = max(self.severity, row.severity if row else self.severity)
            self._take(line)
            return True
        else:
            self._passed.append(line)
            # An oops shows its registers once more behind its end.
            self.closed = self._ended or len([p for p in self._passed if p.body.strip()]) > TOLERANCE
        self.closed = self.closed or line.index - self._lines[0].index >= LINES_MAX
        return not self.closed

    def _begins_another(self, line: LogLine, row: Row | None) -> bool:
        if line.time is not None and self._time is not None and line.time - self._time > GAP:
            return True
        if CUT in line.body:
            # A corrupted list is told before the line that cuts.
            return self.row.end is not End.TRACE or line.index - self._told.index > 2
        if row is None:
            return False
        return self._ended or self.row.end is End.SILENCE or row.end is End.PANIC

    def _take(self, line: LogLine) -> None:
        self._lines += [*self._passed, line]
        self._passed.clear()
        self._time = line.time if line.time is not None else self._time
        self._known = None

    def splat(self) -> Splat:
        if self._known is None or self._known.open is self.closed:
            told = self._lines.index(self._told)
            function = (
                find_function(self._named, (line.body for line in self._lines[told:]))
                if self.row.where
                else ""
            )
            self._known = Splat(
                kind=self.row.kind,
                title=stable(self._what) + (f" in {function}" if function else ""),
                severity=self.severity,
                first=self._lines[0].index,
                last=self.last,
                offset=self._offset,
                line=self._told.text.strip(),
                text="\n".join(line.text for line in self._lines),
                open=not self.closed,
            )
        return self._known


class Reader:
    """Finds splats in a stream of bytes; how the stream is cut makes no difference."""

    def __init__(self) -> None:
        self._rest = bytearray()
        self._index = 0
        self._offset = 0
        self._before: deque[LogLine] = deque(maxlen=LOOK_BACK)
        self._open: list[_Growing] = []
        self._found: list[_Growing] = []

    @property
    def splats(self) -> tuple[Splat, ...]:
        """Every splat so far, in the order of the lines that told of them."""
        return tuple(growing.splat() for growing in self._found)

    def feed(self, data: bytes) -> None:
        """Take in more bytes. An unfinished last line waits for its end."""
        searched = len(self._rest)
        self._rest += data
        end = self._rest.rfind(b"\n", searched) + 1
        if end:
            block = bytes(self._rest[:end])
            del self._rest[:end]
            self._read(block)

    def finish(self) -> tuple[Splat, ...]:
        """Take the last line as it is, close every splat, and return them all."""
        if self._rest:
            self.feed(b"\n")
        for growing in self._open:
            growing.closed = True
        self._open.clear()
        return self.splats

    def _read(self, block: bytes) -> None:
        position = 0
        while position < len(block):
            if not self._open:
                hit = WORDS.search(block, position)
                start = len(block) if hit is None else max(block.rfind(b"\n", 0, hit.start()) + 1, position)
                self._pass(block, position, start)
                position = start
                if hit is None:
                    return
            stop = block.index(b"\n", position) + 1
            self._offset += stop - position
            self._take(read_line(self._index, block[position:stop]))
            self._index += 1
            position = stop

    def _pass(self, block: bytes, start: int, stop: int) -> None:
        """Pass over lines that tell of nothing, and keep the last few to look back at."""
        self._index += block.count(b"\n", start, stop)
        self._offset += stop - start
        cut, kept = stop, 0
        while cut > start and kept < LOOK_BACK:
            cut = max(block.rfind(b"\n", start, cut - 1) + 1, start)
            kept += 1
        for back, raw in zip(range(kept, 0, -1), block[cut:stop].split(b"\n"), strict=False):
            self._before.append(read_line(self._index - back, raw))

    def _take(self, line: LogLine) -> None:
        found = find_row(line.body)
        row = found[0] if found else None
        # What is told in one line neither belongs to another splat nor ends it.
        alone = row is not None and row.end is End.LINE
        owner = next((one for one in self._open if one.caller == line.caller and not alone), None)
        if owner is None and row is None:
            # A CPU that is asked for its backtrace answers for itself.
            owner = next((one for one in self._open if one.row.end is End.SILENCE), None)
        taken = owner is not None and owner.offer(line, row)
        if taken and owner is not None and owner.last == line.index:
            self._forget(line.caller)
        else:
            self._before.append(line)
        if found is not None and not taken:
            self._begin(*found, line)
        for one in self._open:
            one.closed = one.closed or line.index - one.last > LINES_MAX
        self._open = [one for one in self._open if not one.closed]

    def _forget(self, caller: str) -> None:
        """Look back no further than here: what was before belongs to a splat."""
        self._before = deque((one for one in self._before if one.caller != caller), maxlen=LOOK_BACK)

    def _begin(self, row: Row, match: re.Match[str], line: LogLine) -> None:
        if len(self._found) >= SPLATS_MAX and row.end is not End.PANIC:
            return
        before = [one for one in self._before if one.caller == line.caller and one is not line]
        heads = [number for number, one in enumerate(before) if CUT in one.body or RULE.search(one.body)]
        recent = before[heads[-1] :] if heads and row.end not in (End.PANIC, End.LINE) else []
        groups = {name: value or "" for name, value in match.groupdict().items()}
        growing = _Growing(
            row, groups.get("function"), row.title.format(**groups), [*recent, line], self._offset
        )
        self._forget(line.caller)
        self._open += [] if growing.closed else [growing]
        self._found.append(growing)


def find_splats(log: str | bytes | Iterable[str]) -> tuple[Splat, ...]:
    """Return the splats in a whole log: its text, its bytes, or its lines."""
    reader = Reader()
    if isinstance(log, bytes):
        reader.feed(log)
    elif isinstance(log, str):
        reader.feed(log.encode("utf-8", "replace"))
    else:
        for line in log:
            reader.feed(line.rstrip("\r\n").encode("utf-8", "replace") + b"\n")
    return reader.finish()
