# SPDX-License-Identifier: MIT
"""What a console has printed, with the times of its bytes."""

from __future__ import annotations

import bisect
from collections.abc import Sequence
from dataclasses import dataclass


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


def split(data: bytes, stamps: Sequence[tuple[int, float]]) -> list[Line]:
    """Return the lines of ``data``; ``stamps`` are positions and times, ascending."""
    starts = [start for start, _ in stamps]
    result: list[Line] = []
    position = 0
    for raw in data.splitlines(keepends=True):
        stamp = stamps[bisect.bisect_right(starts, position) - 1][1]
        position += len(raw)
        result.append(Line(stamp, raw.rstrip(b"\r\n").decode("utf-8", "replace")))
    return result
