# SPDX-License-Identifier: MIT
"""Unified diffs: taken apart, applied strictly to a tree, and explained where they do not fit."""

from __future__ import annotations

import difflib
import re
import subprocess
from pathlib import Path

import msgspec

from harness.errors import HarnessError

CLOSE = 400
"""Lines before and behind a hunk's place in which a rejected hunk's likely home is looked for."""

_HUNK = re.compile(rb"^@@ -(\d+)(?:,(\d+))? \+(\d+)(?:,(\d+))? @@(.*)$")
_SAID = re.compile(
    r"^Hunk #(\d+) (succeeded|FAILED|ignored|skipped) at (\d+)(?:.*\(offset (-?\d+) lines?\))?"
)


class Hunk(msgspec.Struct, frozen=True):
    """One hunk: its first line in the old file, and the lines that it expects there."""

    start: int
    wanted: tuple[bytes, ...]
    section: str


class FileDiff(msgspec.Struct, frozen=True):
    """One file's part of a patch. ``old`` or ``new`` is None for a file that comes or goes."""

    old: str | None
    new: str | None
    hunks: tuple[Hunk, ...]

    @property
    def path(self) -> str:
        """The path that the file has, or had if it goes."""
        return self.new or self.old or "?"


class HunkReport(msgspec.Struct, frozen=True):
    """What became of one hunk: ``clean``, ``offset`` (by how many lines) or ``rejected`` (why)."""

    patch: str
    file: str
    hunk: int
    outcome: str
    offset: int = 0
    why: str = ""


def parse(text: bytes, name: str) -> tuple[FileDiff, ...]:
    """Take the diffs in a patch apart; prose around them is skipped.

    Raises HarnessError for a hunk that is shorter than its header says, and for a path that
    leads out of the tree.
    """
    lines = text.split(b"\n")
    found: list[FileDiff] = []
    at = 0
    while at < len(lines):
        line = lines[at]
        if line.startswith(b"diff --git "):
            at, file = _git_header(lines, at)
        elif line.startswith(b"--- ") and lines[at + 1 : at + 2] and lines[at + 1].startswith(b"+++ "):
            file = FileDiff(_path(line), _path(lines[at + 1]), ())
            at += 2
        else:
            at += 1
            continue
        hunks: list[Hunk] = []
        while at < len(lines) and (match := _HUNK.match(lines[at])):
            at, hunk = _hunk(lines, at, match, f"{name}: {file.path}")
            hunks.append(hunk)
        for path in (file.old, file.new):
            if path is not None and (path.startswith("/") or ".." in path.split("/")):
                raise HarnessError(
                    f"{name} changes {path}, which is outside the source", advice="do not use it"
                )
        if hunks or (line.startswith(b"diff --git ") and (file.old or file.new)):
            found.append(msgspec.structs.replace(file, hunks=tuple(hunks)))
    return tuple(found)


def _git_header(lines: list[bytes], at: int) -> tuple[int, FileDiff]:
    """Read from ``diff --git`` up to the first hunk; renames and mode changes have none."""
    words = lines[at].split(b" ")
    if len(words) < 4:
        return at + 1, FileDiff(None, None, ())
    old, new = _strip(words[2]), _strip(words[-1])
    at += 1
    while at < len(lines) and re.match(
        rb"(old|new|deleted|index|similarity|dissimilarity|rename|copy) ?", lines[at]
    ):
        at += 1
    if at + 1 < len(lines) and lines[at].startswith(b"--- ") and lines[at + 1].startswith(b"+++ "):
        return at + 2, FileDiff(_path(lines[at]), _path(lines[at + 1]), ())
    return at, FileDiff(old, new, ())


def _path(line: bytes) -> str | None:
    name = line[4:].split(b"\t")[0].rstrip()
    return None if name == b"/dev/null" else _strip(name)


def _strip(name: bytes) -> str:
    """Drop the first component (``a/`` or ``b/``)."""
    text = name.decode(errors="replace")
    return text if text.startswith("/") else text.split("/", 1)[-1]


def _hunk(lines: list[bytes], at: int, match: re.Match[bytes], where: str) -> tuple[int, Hunk]:
    start, old, _, new = (int(number) if number is not None else 1 for number in match.groups()[:4])
    wanted: list[bytes] = []
    at += 1
    while old > 0 or new > 0:
        line = lines[at] if at < len(lines) else b"?"
        kind = line[:1] or b" "  # mailers strip the blank of an empty context line
        if kind not in b" -+\\" or (kind == b" " and (old <= 0 or new <= 0)):
            raise HarnessError(
                f"{where}: the hunk {match[0].decode(errors='replace')} is damaged at line {at + 1}",
                advice="save the mail unchanged (raw), or fetch the series with b4",
            )
        if kind in b" -":
            wanted.append(line[1:])
            old -= 1
        if kind in b" +":
            new -= 1
        at += 1
    while at < len(lines) and lines[at].startswith(b"\\"):
        at += 1
    return at, Hunk(start, tuple(wanted), match[5].decode(errors="replace").strip())


def apply(text: bytes, name: str, tree: Path) -> list[HunkReport]:
    """Apply a patch to ``tree``, strictly, and say what became of every hunk.

    A rejected hunk is in the report, with the reason; the other hunks are applied all the same,
    so a tree with a rejected hunk is good for nothing but looking. Hard links of changed files
    are broken. Raises HarnessError when patch itself cannot work.
    """
    files = parse(text, name)
    command = ["patch", "-p1", "--fuzz=0", "--forward", "--verbose", "--no-backup-if-mismatch"]
    result = subprocess.run(
        [*command, "--batch", "--reject-file=-", "-d", str(tree)],
        input=text,
        capture_output=True,
        check=False,
        env={"LC_ALL": "C", "PATH": "/usr/bin:/bin", "QUOTING_STYLE": "literal"},
    )
    said = _outcomes(result.stdout.decode(errors="replace"))
    if result.returncode > 1:
        raise HarnessError(
            f"patch cannot apply {name}",
            details=(result.stdout + result.stderr).decode(errors="replace")[-800:],
            advice="check that the file is a patch against a kernel tree",
        )
    report: list[HunkReport] = []
    for file in files:
        parts = said.get(file.path) or said.get(file.old or "") or [{}]
        # A file that the patch changes twice is patched twice, in that order.
        outcomes = parts.pop(0) if len(parts) > 1 else parts[0]
        for number, hunk in enumerate(file.hunks, 1):
            outcome, offset = outcomes.get(number, ("clean" if result.returncode == 0 else "rejected", 0))
            why = _explain(file, hunk, tree, offset) if outcome == "rejected" else ""
            report.append(HunkReport(name, file.path, number, outcome, offset, why))
    if result.returncode == 1 and all(entry.outcome != "rejected" for entry in report):
        raise HarnessError(f"patch rejects {name}", details=result.stdout.decode(errors="replace")[-800:])
    return report


def _outcomes(output: str) -> dict[str, list[dict[int, tuple[str, int]]]]:
    """Read what patch said about each hunk of each file."""
    found: dict[str, list[dict[int, tuple[str, int]]]] = {}
    current: dict[int, tuple[str, int]] = {}
    for line in output.splitlines():
        start = re.match(r"(?:patching|checking) (?:file|symbolic link) '?(.+?)'?(?: \(.*\))?$", line)
        if start:
            current = {}
            found.setdefault(start[1], []).append(current)
        elif match := _SAID.match(line):
            offset = int(match[4] or 0)
            outcome = ("offset" if offset else "clean") if match[2] == "succeeded" else "rejected"
            current[int(match[1])] = (outcome, offset)
    return found


def _explain(file: FileDiff, hunk: Hunk, tree: Path, offset: int) -> str:
    """Show the file's own lines beside those that a rejected hunk wants."""
    head = f"at line {hunk.start} {hunk.section}".rstrip()
    try:
        lines = (tree / (file.old or file.path)).read_bytes().split(b"\n")
    except OSError:
        return f"{head}: this source has no such file"
    if file.old is None:
        return f"{head}: the file exists already"
    size = len(hunk.wanted)
    first = max(0, hunk.start - 1 + offset - CLOSE)
    places = range(first, max(first + 1, min(len(lines), hunk.start + offset + CLOSE) - size + 1))
    matches = {
        at: sum(a == b for a, b in zip(lines[at : at + size], hunk.wanted, strict=False)) for at in places
    }
    best = max(places, key=lambda at: (matches[at], -abs(at - hunk.start)))
    mine, theirs = (
        [line.decode(errors="replace") for line in text] for text in (lines[best : best + size], hunk.wanted)
    )
    compared = [line.rstrip() for line in difflib.ndiff(mine, theirs) if not line.startswith("?")]
    legend = f"{head}; closest lines at {best + 1} ('-' is what the file has, '+' what the hunk wants):"
    return "\n".join([legend, *("    " + line for line in compared)])
