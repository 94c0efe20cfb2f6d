# SPDX-License-Identifier: MIT
"""What a console has printed, with the times of its bytes.

The last of it is in memory, where everybody looks; from a certain length on all of it is in a file
without a name, which is gone when its users are: a guest may print without end.
"""

from __future__ import annotations

import bisect
import os
import re
import tempfile
import threading
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import BinaryIO

from harness import paths

KEPT = 1 << 20
"""Bytes at the end that are kept in memory; twice as many before any go to the file."""
PIECE = 1 << 20
"""Bytes that are searched at once."""
MATCH_MAX = 1 << 20
"""Bytes that a match of ``search`` can surely have where all is more than one piece."""
STAMPS_EXACT = 100_000
COARSE = 0.05
"""So many times are exact. Of what comes after them, those that differ by less seconds are one."""


@dataclass(frozen=True)
class Line:
    """One printed line, control characters included, with the host's monotonic time of its first byte."""

    time: float
    text: str


@dataclass(frozen=True)
class History:
    """What a console had printed when its machine was frozen.

    ``stamps`` are positions in ``data`` and seconds counted from the freeze, so below zero: the
    host's clock goes on while a machine is frozen, the guest's does not.
    """

    data: bytes = b""
    stamps: tuple[tuple[int, float], ...] = ()


class Transcript:
    """All bytes of one console. Any thread may look while one appends, which nobody keeps waiting."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._recent = bytearray()
        self._spilled = 0
        self._file: BinaryIO | None = None
        self._positions = array("q")
        self._times = array("d")

    def __len__(self) -> int:
        return self._spilled + len(self._recent)

    def append(self, data: bytes, time: float) -> None:
        """Take in what came at ``time``."""
        with self._lock:
            if len(self._times) < STAMPS_EXACT or time - self._times[-1] >= COARSE:
                self._positions.append(len(self))
                self._times.append(time)
            self._recent += data
            if len(self._recent) > 2 * KEPT:
                self._spill(len(self._recent) - KEPT)

    def read(self, start: int = 0, end: int | None = None) -> bytes:
        """Return the bytes from position ``start`` to ``end``, by default all."""
        with self._lock:
            end = len(self) if end is None else min(end, len(self))
            older = b""
            if self._file is not None and start < self._spilled:
                older = os.pread(self._file.fileno(), min(end, self._spilled) - start, start)
            return older + self._recent[max(start - self._spilled, 0) : max(end - self._spilled, 0)]

    def stamps(self) -> list[tuple[int, float]]:
        """Return positions and times, ascending."""
        with self._lock:
            return list(zip(self._positions, self._times, strict=True))

    def lines(self) -> Iterator[Line]:
        """Yield every line with its time; the last one may be unfinished."""
        stamps, position = self.stamps(), 0
        for piece in self._pieces():
            yield from split(piece, stamps, position)
            position += len(piece)

    def search(self, pattern: str | re.Pattern[str]) -> bool:
        r"""Return whether ``pattern`` matches in what was printed, as text with plain line ends."""
        wanted = re.compile(pattern)
        before = ""
        for piece in self._pieces():
            text = before + piece.decode("utf-8", "replace").replace("\r\n", "\n")
            # The one character before tells whether a line, or everything, begins there.
            if wanted.search(text, 1 if before else 0):
                return True
            before = text[-MATCH_MAX:]
        return False

    def _pieces(self) -> Iterator[bytes]:
        """Yield everything in pieces that end with a line, unless that line is a whole piece long."""
        start, all_of_it = 0, len(self)
        while start < all_of_it:
            piece = self.read(start, min(start + PIECE, all_of_it))
            if start + len(piece) < all_of_it:
                piece = piece[: piece.rfind(b"\n") + 1] or piece
            start += len(piece)
            yield piece

    def _spill(self, count: int) -> None:
        try:
            if self._file is None:
                paths.cache().mkdir(parents=True, exist_ok=True)
                self._file = tempfile.TemporaryFile(dir=paths.cache(), buffering=0)  # noqa: SIM115
            count = os.pwrite(self._file.fileno(), self._recent[:count], self._spilled)
        except OSError:
            # A full disk: it stays in memory, and the line is read on.
            return
        del self._recent[:count]
        self._spilled += count


def split(data: bytes, stamps: Sequence[tuple[int, float]], position: int = 0) -> list[Line]:
    """Return the lines of ``data``, which begins at ``position``; ``stamps`` are positions and times."""
    starts = [start for start, _ in stamps]
    result: list[Line] = []
    for raw in data.splitlines(keepends=True):
        stamp = stamps[bisect.bisect_right(starts, position) - 1][1]
        position += len(raw)
        result.append(Line(stamp, raw.rstrip(b"\r\n").decode("utf-8", "replace")))
    return result
