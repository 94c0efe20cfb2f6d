# SPDX-License-Identifier: MIT
"""`mkh store`: what was built, from what, and what may go."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import msgspec
from cyclopts import App, Parameter
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from harness.build import clean, inuse, report, store
from harness.errors import UsageError
from harness.progress import Progress
from harness.vm import memory
from harness.vm.shelf import Shelf

app = App(name="store", version_flags=[])

Json = Annotated[bool, Parameter(help="Print JSON.")]


@app.command(name="list")
def list_builds(*, json: Json = False) -> int:
    """List the builds, those used last at the end.

    For example:

        mkh store list --json | jq -r '.[].digest'
    """
    rows = []
    for entry in store.entries():
        meta = store.read_meta(entry)
        times = entry.stat().st_mtime, (entry / "meta.json").stat().st_mtime
        size = clean.size_of(entry)
        rows.append((meta.definition, entry.name, meta.source, size, *times, inuse.is_held(entry)))
    if json:
        keys = ("definition", "digest", "source", "bytes", "used", "built", "in_use")
        print(msgspec.json.encode([dict(zip(keys, row, strict=True)) for row in rows]).decode())
        return 0
    table = Table(box=None)
    for column in ("definition", "digest", "source", "MB", "built", "last used"):
        table.add_column(column, justify="right" if column == "MB" else "left")
    for definition, digest, source, size, used, built, held in rows:
        last = "now" if held else _ago(used)
        table.add_row(escape(definition), digest, escape(source), f"{size / 1e6:.0f}", _ago(built), last)
    console = _console()
    console.print(table)
    total = sum(row[3] for row in rows)
    console.print(
        f"{len(rows)} builds, {total / 1e6:,.0f} MB of at most {clean.limit() / 1e6:,.0f} ({clean.LIMIT})"
    )
    return 0


@app.command
def show(
    name: Annotated[
        str, Parameter(help="A digest, its beginning, or a definition, whose last build is meant.")
    ],
    /,
    *,
    json: Json = False,
) -> int:
    """Show one build: all that it was made from, how the series applied, its files.

    For example:

        mkh store show reference
    """
    entry = _entry(name)
    meta = store.read_meta(entry)
    if json:
        told = {"digest": entry.name, "folder": str(entry), **msgspec.structs.asdict(meta)}
        print(msgspec.json.encode(told).decode())
        return 0
    console = _console()
    told = {
        "digest": entry.name,
        "definition": meta.definition,
        "release": meta.release,
        "source": meta.source,
        "series": f"{meta.patches} patches{f' from {meta.series}' if meta.series else ''}",
        "applied": _applied(entry),
        "built": f"{_ago(meta.created)}, in {meta.seconds:.1f} s" if meta.created else "",
        **{f"input: {key}": value for key, value in meta.inputs.items()},
        **{
            f"file: {file.name}": f"{file}, {file.stat().st_size:,} bytes" for file in sorted(entry.iterdir())
        },
    }
    for key, value in told.items():
        console.print(f"{key + ':':<36} {value}", markup=False, highlight=False, soft_wrap=True)
    return 0


@app.command
def gc(
    *,
    keep_days: Annotated[float, Parameter(help="Builds and work trees used since then stay.")] = 30.0,
    size: Annotated[
        str | None, Parameter(help="What all builds may take together, like 2G; else the limit.")
    ] = None,
    machines: Annotated[
        bool,
        Parameter(negative="", help="Only the frozen machines, all of them: tests boot theirs anew."),
    ] = False,
    dry_run: Annotated[bool, Parameter(help="Only tell what would go.")] = False,
) -> int:
    """Remove old builds and work trees, sources that nothing names, what killed runs left.

    Frozen machines go when no test began from them for a day. What a process uses stays.

    For example:

        mkh store gc --size 4G --dry-run
    """
    if not 0 <= keep_days < 1e6:
        raise UsageError(f"--keep-days {keep_days:g} makes no sense", advice="give a number of days from 0")
    wanted = clean.limit() if size is None else clean.parse_size(size, "--size")
    items = list(_machines(0 if machines else min(keep_days, 1), dry_run=dry_run))
    if not machines:
        items += clean.gc(keep_days, wanted, Progress(), dry_run=dry_run)
    console = _console()
    for item in items:
        size_text = f"{item.size / 1e6:8,.0f} MB"
        console.print(f"{size_text}  {item.kind} {item.folder}: {item.why}", markup=False, soft_wrap=True)
    total = sum(item.size for item in items)
    console.print(
        f"{len(items)} {'would be' if dry_run else 'were'} removed, {total / 1e6:,.0f} MB "
        "(what is shared with others counts in each)"
    )
    return 0


def _machines(keep_days: float, *, dry_run: bool) -> Iterator[clean.Item]:
    """Remove this user's frozen machines, whatever cache they belong to: that may be gone."""
    before = time.time() - keep_days * clean.DAY
    in_memory = memory.SHM.glob(f"mkharness-{os.getuid()}*")
    for root in (*in_memory, Shelf().roots[-1]):
        # Everybody may put anything under such a name into a folder that is everybody's.
        if root.is_symlink() or not root.is_dir() or root.stat().st_uid != os.getuid():
            continue
        for folder in root.iterdir():
            # One with an ending is being made, or removed.
            if not folder.is_dir() or folder.suffix or folder.stat().st_mtime > before:
                continue
            item = clean.Item("frozen machine", folder, clean.size_of(folder), _unused(keep_days))
            gone = not inuse.is_held(folder) if dry_run else inuse.remove(folder)
            if gone:
                yield item


def _unused(days: float) -> str:
    return f"not used for {days:g} days" if days else "all are to go"


def _console() -> Console:
    console = Console(highlight=False)
    return console if console.is_terminal else Console(highlight=False, width=150)


def _entry(name: str) -> Path:
    entries = store.entries()
    if not name:
        raise UsageError("no build is named", advice="give a digest or a definition; see `mkh store list`")
    found = [entry for entry in entries if entry.name.startswith(name)]
    if len(found) > 1:
        digests = ", ".join(entry.name for entry in found)
        raise UsageError(f"{len(found)} builds begin with {name}", advice=f"give more of one of: {digests}")
    found = found or [entry for entry in entries if store.read_meta(entry).definition == name]
    if not found:
        raise UsageError(f"the store has no build {name}", advice="see `mkh store list`, or run `mkh build`")
    return found[-1]


def _applied(entry: Path) -> str:
    """Say how the hunks of a build's series applied."""
    try:
        found = msgspec.json.decode((entry / store.REPORT).read_bytes(), type=list[report.PatchReport])
    except msgspec.DecodeError:
        return "reported in an older form"
    return report.summary(found)


def _ago(moment: float) -> str:
    seconds = max(0.0, time.time() - moment)
    for unit, length in (("days", 86400), ("hours", 3600), ("minutes", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {unit} ago"
    return f"{seconds:.0f} seconds ago"
