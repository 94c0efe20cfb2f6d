# SPDX-License-Identifier: MIT
"""What a series holds, as a table for people and as plain values for other systems."""

from __future__ import annotations

from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from harness.build import diff
from harness.build.series import Patch, Series
from harness.errors import HarnessError
from harness.report.columns import printable


def as_values(series: Series) -> dict[str, Any]:
    """Return what ``mkh series show --json`` prints."""
    return {
        "place": series.place,
        "digest": series.digest,
        "base_commit": series.base_commit or None,
        "prerequisite_patch_ids": list(series.prerequisites),
        "total": series.total or len(series.patches),
        "patches": [
            {
                "subject": patch.subject,
                "author": patch.author,
                "message_id": patch.message_id or None,
                "name": patch.name,
                "files": [{"path": path, "added": a, "removed": r} for path, a, r in files_of(patch)],
            }
            for patch in series.patches
        ],
        "missing": list(series.missing),
        "left_out": [
            {"name": entry.name, "subject": entry.subject, "why": entry.why} for entry in series.left_out
        ],
        "notes": list(series.notes),
        "problems": list(series.problems),
    }


def as_table(series: Series) -> RenderableType:
    """Return the series in its order, then what is missing, wrong, left out and noted."""
    table = Table(title=Text(printable(str(series.place))), title_justify="left")
    table.add_column("", justify="right")
    table.add_column("patch", overflow="fold")
    table.add_column("files", overflow="fold")
    for number, patch in enumerate(series.patches, 1):
        about = Text(printable(patch.subject))
        for line in (patch.author, patch.message_id):
            about.append(f"\n{printable(line)}" if line else "", style="dim")
        files = Table.grid(padding=(0, 1, 0, 0))
        files.add_column(justify="right", style="green")
        files.add_column(justify="right", style="red")
        files.add_column(overflow="fold")
        for path, added, removed in files_of(patch):
            files.add_row(f"+{added}", f"-{removed}", Text(printable(path)))
        table.add_row(str(number), about, files, end_section=True)
    lines = [Text(f"missing: {number}/{series.total}", style="bold red") for number in series.missing]
    lines += [Text(printable(problem), style="red") for problem in series.problems]
    lines += [Text(printable(note)) for note in series.notes]
    lines.append(Text(f"base commit: {series.base_commit or 'not told'}"))
    lines += [Text(f"needs the patch with id {number} first") for number in series.prerequisites]
    lines += [
        Text(printable(f"left out: {entry.name}: {entry.subject or 'no subject'}: {entry.why}"), style="dim")
        for entry in series.left_out
    ]
    return Group(table, *lines)


def files_of(patch: Patch) -> list[tuple[str, int, int]]:
    """Return path, lines added and lines removed of each file; nothing of a patch that is damaged."""
    try:
        files = diff.parse(patch.text, patch.name)
    except HarnessError:
        return []
    return [(file.path, _count(file, b"+"), _count(file, b"-")) for file in files]


def _count(file: diff.FileDiff, sign: bytes) -> int:
    return sum(line[:1] == sign for hunk in file.hunks for line in hunk.lines)
