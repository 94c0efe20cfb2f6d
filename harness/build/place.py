# SPDX-License-Identifier: MIT
"""Where the hunks of one file fit: the search of GNU patch, on lines in memory.

GNU patch was chosen over ``git apply`` since only it has fuzz as kernel developers know it; it is
followed here, not called, since the report needs what it does not print (which lines of context
were given up) and since what reads a hostile patch should be one parser, not two. A test compares
with GNU patch on random files.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass

from harness.build.diff import Hunk


@dataclass(frozen=True)
class Place:
    """Where a hunk fits: the index of its first old line, also when ``lead`` lines are given up.

    ``offset`` is how far that is from where the hunk says, ``fuzz`` the level at which it fits;
    ``lead`` and ``trail`` say how many lines of its context were not compared at either end.
    """

    at: int
    offset: int
    fuzz: int
    lead: int
    trail: int


def place(lines: Sequence[bytes], hunks: Sequence[Hunk], fuzz: int) -> list[Place | None]:
    """Find the place of each hunk, in order, in the lines of a file as it was; None: nowhere.

    As GNU patch does it: nearest to where the last one was found, the lower fuzz first, and with
    less context at one end only at that end of the file.
    """
    text = _Text(lines)
    found: list[Place | None] = []
    drift = frozen = 0
    for hunk in hunks:
        old, lead, trail = hunk.old, hunk.lead, hunk.trail
        context = max(lead, trail)
        nominal = hunk.start - 1 if old else hunk.start
        where = None
        for level in range(min(fuzz, context) + 1):
            skips = level + lead - context, level + trail - context
            at = text.find(old, nominal + drift, frozen, *skips)
            if at is not None:
                where = Place(at, at - nominal, level, max(0, skips[0]), max(0, skips[1]))
                drift = at - nominal
                frozen = at + len(old) - trail
                break
        found.append(where)
    return found


class _Text:
    """A file's lines, and where each of them stands."""

    def __init__(self, lines: Sequence[bytes]) -> None:
        self._lines = list(lines)
        self._known: dict[tuple[bytes, ...], list[int]] = {}
        self._places: dict[bytes, list[int]] = {}
        for at, line in enumerate(self._lines):
            self._places.setdefault(line, []).append(at)

    def find(self, old: list[bytes], guess: int, low: int, lead: int, trail: int) -> int | None:
        """Return where ``old`` fits best, at ``low`` or behind, its first and last lines left out.

        A negative ``lead`` or ``trail`` ties it to the file's beginning or end.
        """
        high = len(self._lines) - len(old) + max(0, trail)
        if lead < 0:
            high = min(high, 0)
        if trail < 0:
            low = max(low, high)
        if low > high:
            return None
        lead = max(0, lead)
        wanted = old[lead : len(old) - max(0, trail)]
        guess = min(max(guess, low), high)
        if self._lines[guess + lead : guess + lead + len(wanted)] == wanted:
            return guess
        starts = self._starts(tuple(wanted))
        first, end = bisect_left(starts, low + lead), bisect_right(starts, high + lead)
        middle = bisect_left(starts, guess + lead, first, end)
        # The nearest is beside the guess; of two alike the one behind it.
        near = sorted(starts[max(first, middle - 1) : min(end, middle + 1)], reverse=True)
        return min(near, key=lambda at: abs(at - lead - guess)) - lead if near else None

    def _starts(self, wanted: tuple[bytes, ...]) -> list[int]:
        """Return every place where lines stand, ascending; remembered, as many hunks may want the same."""
        if wanted not in self._known:
            # Only where its rarest line stands can the whole stand.
            rare = min(range(len(wanted)), key=lambda n: len(self._places.get(wanted[n], ())))
            places = self._places.get(wanted[rare], [])
            self._known[wanted] = [
                at - rare
                for at in places
                if at >= rare and self._lines[at - rare : at - rare + len(wanted)] == [*wanted]
            ]
        return self._known[wanted]
