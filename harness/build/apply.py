# SPDX-License-Identifier: MIT
"""A series onto a source, in memory: nothing is written, and the source is only read.

Every hunk is applied that can be, so that the report tells all that is wrong; what comes out of a
series with failed hunks is good for nothing but looking.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from harness.build.diff import FileDiff, Hunk, parse
from harness.build.landing import Sections
from harness.build.place import Place, place
from harness.build.report import HunkReport, Outcome, PatchReport, beside
from harness.build.series import Series
from harness.build.source import Source
from harness.errors import HarnessError

EXPLAINED = 20
"""Failed hunks of one file that are shown beside the file's own lines; of the others the place."""


@dataclass(frozen=True)
class File:
    """A regular file: what is in it, and its permissions."""

    content: bytes
    mode: int


@dataclass(frozen=True)
class Applied:
    """A source with a series on top: the files that it touches, None for those that are gone."""

    source: Source
    series: Series
    fuzz: int
    files: dict[str, File | None]
    report: list[PatchReport]

    @property
    def failed(self) -> list[PatchReport]:
        """The patches that did not apply, or not in the right place."""
        return [patch for patch in self.report if patch.failed]


class Unusable(Exception):
    """A path that holds no regular file and can hold none."""


def apply_series(source: Source, series: Series, fuzz: int = 0) -> Applied:
    """Apply a series, giving up at most ``fuzz`` lines of context at each end of a hunk.

    Failed hunks are in the report; see ``refuse``. Raises HarnessError for a patch that is damaged
    or unsafe.
    """
    tree = Tree(source.tree)
    report: list[PatchReport] = []
    for patch in series.patches:
        files: list[str] = []
        hunks: list[HunkReport] = []
        for file in parse(patch.text, patch.name):
            files += [name for name in (file.path,) if name not in files]
            try:
                hunks += _apply_file(file, tree, fuzz)
            except Unusable as error:
                hunks += _all_rejected(file, str(error))
        counts: dict[Outcome, int] = {}
        for hunk in hunks:
            counts[hunk.outcome] = counts.get(hunk.outcome, 0) + 1
        unclean = [hunk for hunk in hunks if hunk.outcome != "clean"]
        report.append(PatchReport(patch.name, patch.subject, files, counts, unclean))
    return Applied(source, series, fuzz, tree.touched, report)


def refuse(applied: Applied) -> None:
    """Raise HarnessError, naming patch, file and hunk, unless all hunks applied where they belong."""
    if not applied.failed:
        return
    patch = applied.failed[0]
    first = patch.failed[0]
    misplaced = all(hunk.outcome == "misplaced" for hunk in patch.failed)
    verb = "has hunks in the wrong place on" if misplaced else "does not apply to"
    place = f"{first.file}, hunk {first.hunk}" if first.hunk else first.file
    more = len(patch.failed) - 1
    details = [str(hunk) for hunk in patch.failed[:5]]
    if len(applied.failed) > 1:
        names = ", ".join(other.patch for other in applied.failed[1:6])
        details.append(f"and, perhaps only because of that, {len(applied.failed) - 1} later patches: {names}")
    raise HarnessError(
        f"patch {patch.patch} ({patch.subject}) {verb} {applied.source.version}: {place}"
        + (f" and {more} more" if more else ""),
        details="\n".join(details),
        advice="choose the base that the series was made for with --base, or bring the patch up to date; "
        "`mkh series apply` shows every hunk",
    )


class Tree:
    """A source's files with changes on top. Symbolic links are neither followed nor changed."""

    def __init__(self, top: Path) -> None:
        self._top = top
        self.touched: dict[str, File | None] = {}

    def read(self, name: str) -> File | None:
        """Return a file, or None when there is none. Raises Unusable where none can be."""
        if name not in self.touched:
            self.touched[name] = read_file(self._top, name)
        folders = [str(parent) for parent in Path(name).parents]
        taken = next((f for f in folders if self.touched.get(f) is not None), None)
        if taken is not None:
            raise Unusable(f"{taken} is a file, not a folder")
        return self.touched[name]

    def write(self, name: str, file: File | None) -> None:
        """Replace a file that was read before, or remove it."""
        below = f"{name}/"
        if file is not None and any(f is not None and n.startswith(below) for n, f in self.touched.items()):
            raise Unusable(f"{name} is a folder")
        self.touched[name] = file


def read_file(top: Path, name: str) -> File | None:
    """Read a file of a source without following links; None when there is none."""
    at = top
    parts = name.split("/")
    for part in parts[:-1]:
        at = at / part
        kind = _kind(at)
        if kind is None:
            return None
        if not stat.S_ISDIR(kind):
            raise Unusable(f"{at.relative_to(top)} is {_noun(kind)}, not a folder")
    kind = _kind(at / parts[-1])
    if kind is None:
        return None
    if not stat.S_ISREG(kind):
        raise Unusable(f"it is {_noun(kind)} in this source, not a regular file")
    return File((top / name).read_bytes(), stat.S_IMODE(kind))


def _kind(path: Path) -> int | None:
    try:
        return os.lstat(path).st_mode
    except (FileNotFoundError, NotADirectoryError):
        return None


def _noun(mode: int) -> str:
    if stat.S_ISLNK(mode):
        return "a symbolic link"
    return {stat.S_IFREG: "a file", stat.S_IFDIR: "a folder"}.get(stat.S_IFMT(mode), "a special file")


def _apply_file(file: FileDiff, tree: Tree, fuzz: int) -> list[HunkReport]:
    """Apply one file's part of a patch to the tree, as far as it goes."""
    new_only = not any(hunk.old for hunk in file.hunks)
    old, new = file.old, file.new
    if old is not None and not file.origin:
        # Without a rename, two names mean a copy kept beside (a.c.orig): take the one that is there.
        old = next((name for name in (new, old) if name is not None and tree.read(name) is not None), old)
        new = old if new is not None else None
    before = None if old is None else tree.read(old)
    target = None if new is None or new == old else tree.read(new)
    if target is not None:
        return _all_rejected(file, f"{new} exists already")
    if old is not None and before is None:
        if not (new_only and file.hunks and new is not None and not file.origin):
            return _all_rejected(file, "this source has no such file")
        old = None
    lines = [] if before is None else _split(before.content)
    places = place(lines, file.hunks, fuzz)
    reports = _reports(file, lines, places)
    content = _changed(lines, file.hunks, places)
    if file.new is None and old is not None:
        if content and all(report.outcome != "rejected" for report in reports):
            reports.append(HunkReport(old, 0, "rejected", why="shall go, and has more lines than the patch"))
        tree.write(old, File(content, before.mode) if content and before is not None else None)
        return reports
    mode = file.mode or (before.mode if before is not None else 0o644)
    assert new is not None
    if old is not None and file.origin == "rename":
        tree.write(old, None)
    tree.write(new, File(content, mode))
    return reports


def _split(content: bytes) -> list[bytes]:
    """Split at line feeds only; every line but perhaps the last keeps its own."""
    parts = content.split(b"\n")
    return [part + b"\n" for part in parts[:-1]] + parts[-1:] * bool(parts[-1])


def _changed(lines: Sequence[bytes], hunks: Sequence[Hunk], places: Sequence[Place | None]) -> bytes:
    """Return a file's content with the hunks that have a place; context is the file's own."""
    out: list[bytes] = []
    done = 0
    for hunk, where in zip(hunks, places, strict=True):
        if where is None:
            continue
        at = where.at
        for line in hunk.lines:
            if line[:1] == b" ":
                at += 1
                continue
            out += lines[done:at]
            if line[:1] == b"+":
                out.append(line[1:])
            else:
                at += 1
            done = at
    out += lines[done:]
    # With fuzz the old last line may lack a line feed and be the last no more.
    return b"".join(line if line[-1:] == b"\n" else line + b"\n" for line in out[:-1]) + b"".join(out[-1:])


def _reports(file: FileDiff, lines: Sequence[bytes], places: Sequence[Place | None]) -> list[HunkReport]:
    sections = Sections(file.path, lines)
    reports: list[HunkReport] = []
    failed = 0
    for number, (hunk, where) in enumerate(zip(file.hunks, places, strict=True), 1):
        if where is None:
            failed += 1
            why = _rejection(hunk, lines, shown=failed <= EXPLAINED)
            reports.append(HunkReport(file.path, number, "rejected", hunk.start, why=why))
            continue
        line = where.at + hunk.lead + 1
        wrong = sections.check(hunk, where)
        outcome: Outcome = "fuzz" if where.fuzz else "offset" if where.offset else "clean"
        if wrong:
            failed += 1
            outcome = "misplaced"
            if failed <= EXPLAINED:
                wrong += f"\n{beside(lines, hunk.old, where.at, close=0)}"
        reports.append(HunkReport(file.path, number, outcome, line, where.offset, where.fuzz, wrong))
    return reports


def _rejection(hunk: Hunk, lines: Sequence[bytes], *, shown: bool) -> str:
    """Say why a hunk has no place, with the lines of the file where it might belong."""
    head = f"at line {hunk.start} {hunk.section}".rstrip()
    if not (shown and hunk.old):
        return head
    done = _reversed(hunk)
    if any(line.strip() for line in done.old) and place(lines, [done], 0) != [None]:
        return f"{head}: the file has this change already"
    size = len(hunk.old)
    there = next((n for n in range(len(lines) - size + 1) if lines[n : n + size] == hunk.old), None)
    if there is not None:
        return (
            f"{head}: its lines are at {there + 1}, but it may not stand there; hunks stand in order, and "
            "one with less context at an end belongs to that end of the file"
        )
    ends = {text[0].endswith(b"\r\n") for text in (lines, hunk.old) if text}
    if len(ends) > 1:
        head += "; line ends differ: CR LF in the one, LF in the other"
    return f"{head}; {beside(lines, hunk.old, hunk.start - 1)}"


def _reversed(hunk: Hunk) -> Hunk:
    swap = {b"+": b"-", b"-": b"+", b" ": b" "}
    return replace(hunk, lines=tuple(swap[line[:1]] + line[1:] for line in hunk.lines))


def _all_rejected(file: FileDiff, why: str) -> list[HunkReport]:
    if not file.hunks:
        return [HunkReport(file.path, 0, "rejected", why=why)]
    return [
        HunkReport(file.path, number, "rejected", hunk.start, why=f"at line {hunk.start}: {why}")
        for number, hunk in enumerate(file.hunks, 1)
    ]
