# SPDX-License-Identifier: MIT
"""How a series applied: a record for each patch, as data for files and as lines for people."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from typing import Literal

import msgspec

Outcome = Literal["clean", "offset", "fuzz", "misplaced", "rejected"]
FAILED = ("misplaced", "rejected")

CLOSE = 400
"""Lines before and behind a hunk's place in which a rejected hunk's likely home is looked for."""
SHOWN = 40
"""Lines of a hunk that are shown, and compared to find where it might belong."""
WIDTH = 160
"""Characters of a line that are shown."""


class HunkReport(msgspec.Struct, frozen=True, omit_defaults=True):
    """What became of one hunk that is not clean.

    ``hunk`` counts from 1 in its file's part of the patch; 0 stands for the file itself (a rename, a
    deletion). ``line`` is where it landed in the file as it was, or for a rejected one where it
    says it belongs; ``offset`` is in lines; ``fuzz`` is the level; ``why`` shows what is wrong with
    one that failed.
    """

    file: str
    hunk: int
    outcome: Outcome
    line: int = 0
    offset: int = 0
    fuzz: int = 0
    why: str = ""

    def __str__(self) -> str:
        place = f"{self.file}, hunk {self.hunk}" if self.hunk else self.file
        moved = [f"fuzz {self.fuzz}"] * bool(self.fuzz) + [f"offset {self.offset:+d} lines"] * bool(
            self.offset
        )
        text = f"{place}: {self.outcome}," if self.outcome in FAILED else place + ":"
        return f"{text} {self.why or ', '.join(moved)}" + (f" (line {self.line})" * (not self.why))


class PatchReport(msgspec.Struct, frozen=True):
    """What became of one patch: its files, how many hunks had which outcome, and those not clean."""

    patch: str
    subject: str
    files: list[str]
    hunks: dict[Outcome, int]
    unclean: list[HunkReport] = []

    @property
    def failed(self) -> list[HunkReport]:
        """The hunks that did not apply, or applied in the wrong place."""
        return [hunk for hunk in self.unclean if hunk.outcome in FAILED]

    def __str__(self) -> str:
        counts = ", ".join(f"{count} {outcome}" for outcome, count in self.hunks.items() if count)
        offsets = [hunk.offset for hunk in self.unclean if hunk.offset]
        span = f" by {min(offsets):+d} to {max(offsets):+d} lines" if offsets else ""
        return f"{self.subject}: {counts or 'no hunks'}{span}"


def totals(report: Sequence[PatchReport]) -> dict[Outcome, int]:
    """Add up the hunks of a series by outcome."""
    found: dict[Outcome, int] = {}
    for patch in report:
        for outcome, count in patch.hunks.items():
            found[outcome] = found.get(outcome, 0) + count
    return found


def summary(report: Sequence[PatchReport]) -> str:
    """Say in one line how a series applied."""
    if not report:
        return "no patches"
    counts = totals(report)
    moved = ", ".join(f"{count} {outcome}" for outcome, count in counts.items() if outcome != "clean")
    return f"{len(report)} patches, {sum(counts.values())} hunks, {moved or 'all clean'}"


def lines(report: Sequence[PatchReport], *, verbose: bool = False) -> list[str]:
    """Return the report for people: what is not clean, or with ``verbose`` every patch and file."""
    told: list[str] = []
    for number, patch in enumerate(report, 1):
        if not (patch.unclean or verbose):
            continue
        told.append(f"{number:>3} {patch}")
        told += [f"      {name}" for name in patch.files if verbose]
        told += [
            f"    {hunk}" for hunk in patch.unclean if verbose or hunk.outcome not in ("clean", "offset")
        ]
    return told


def beside(file: Sequence[bytes], wanted: Sequence[bytes], near: int, close: int = CLOSE) -> str:
    """Show the lines of a file that are most like ``wanted``, ``close`` to an index, beside those."""
    size = min(len(wanted), SHOWN)
    first = max(0, min(near, len(file)) - close)
    places = range(first, max(first, min(len(file), near + close) - size * bool(close)) + 1)
    matches = {at: sum(map(bytes.__eq__, file[at : at + size], wanted)) for at in places}
    best = max(places, key=lambda at: (matches[at], -abs(at - near)))
    legend = f"closest lines at {best + 1} ('-' is what the file has, '+' what the hunk wants):"
    return "\n".join([legend, *_compared(file[best : best + size], wanted[:size])])


def _compared(have: Sequence[bytes], wanted: Sequence[bytes]) -> list[str]:
    """Compare lines, in the manner of a diff without its numbers."""
    mine, theirs = ([_shown(line) for line in text] for text in (have, wanted))
    told: list[str] = []
    for kind, a, b, c, d in difflib.SequenceMatcher(None, mine, theirs, autojunk=False).get_opcodes():
        if kind == "equal":
            told += [f"      {line}" for line in mine[a:b]]
        else:
            told += [f"    - {line}" for line in mine[a:b]] + [f"    + {line}" for line in theirs[c:d]]
    return told


def _shown(line: bytes) -> str:
    """Return a line as text that moves no cursor; a carriage return at its end can be seen."""
    text = line[: WIDTH + 2].decode(errors="replace").removesuffix("\n").expandtabs(8)
    shown = "".join(char if char.isprintable() else f"\\x{ord(char):02x}" for char in text[:WIDTH])
    return shown if len(line) <= WIDTH else f"{shown}..."
