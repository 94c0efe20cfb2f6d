# SPDX-License-Identifier: MIT
"""All runs of the suite on a build, one line each: how often did which area hold?

A verdict on flakes needs many runs, and they come from many sessions. Each run adds its line to
``runs/DIGEST.history`` in the cache, and a folder carries lines from one computer to the next. With each
area stands a digest of what judges there: a run of other tests says nothing about these.
"""

from __future__ import annotations

import hashlib
import re
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from functools import cache
from pathlib import Path
from typing import TypeVar

import msgspec
from rich.table import Table

from harness import paths
from harness.errors import UsageError
from harness.report.suite import Counts, Summary, Watched

JUDGES = ("tests/conformance/*.py", "harness/**/*.py")
"""What decides in every area how a build is judged; an area's own tests come to it."""
BESIDE = re.compile(
    r"harness/((report|build|diagnose|tui)/.*|(cli|bench)\w*\.py"
    r"|(demo|doctor|failure|interrupt|needs|recorder|seeded|selfcheck|testing|update)\.py)"
)
"""What does not: it shows, asks, or makes the build, whose digest is known."""


HISTORY = "history"
"""The kind of a run's lines."""

T = TypeVar("T")


class Run(msgspec.Struct, frozen=True):
    """One run: when it ended (seconds since 1970), what judged, and what it showed.

    ``suites`` has a digest for each area; older lines have one for all, ``suite``.
    """

    ended: float
    load: float
    kernel: str
    areas: dict[str, Counts]
    failures: dict[str, str]
    watched: Watched
    suites: dict[str, str] = {}
    suite: str = ""

    def suite_of(self, area: str) -> str:
        """Return the digest of what judged an area."""
        return self.suites.get(area, self.suite)


@cache
def suite_digest(area: str) -> str:
    """Return a digest of what judges in an area: its tests, and what of the harness they rest on."""
    patterns = (*JUDGES, f"tests/conformance/{area}/**/*.py")
    files = sorted(file for pattern in patterns for file in paths.CHECKOUT.glob(pattern))
    judges = [file for file in files if not BESIDE.match(str(file.relative_to(paths.CHECKOUT)))]
    return hashlib.sha256(b"".join(file.read_bytes() for file in judges)).hexdigest()[:12]


def load() -> float:
    """Return how many processes want a core, over the last minute."""
    return float(Path("/proc/loadavg").read_text(encoding="ascii").split()[0])


def keep(build: str, kind: str, what: msgspec.Struct) -> None:
    """Add a line about a build to its file of this kind: one write, so several processes may at once."""
    _append(_file(build, kind), [msgspec.json.encode(what)])


def kept(build: str, kind: str, type: type[T]) -> tuple[T, ...]:
    """Return all that was kept so, the oldest first; a line that is none is passed over."""
    found = []
    for line in _lines(_file(build, kind)):
        try:
            found.append(msgspec.json.decode(line, type=type))
        except msgspec.MsgspecError:
            continue
    return tuple(found)


def carry(
    build: str, folder: Path, kind: str = HISTORY, worth: Callable[[bytes], bool] = lambda line: True
) -> int:
    """Give this computer and a folder each other's lines about a build; return how many the folder gained.

    The folder gets those that are ``worth`` it. Raises UsageError when it cannot be one.
    """
    here = _file(build, kind)
    there = folder / here.name
    try:
        ours, theirs = _lines(here), _lines(there)
        _append(here, [line for line in theirs if line not in ours])
        missing = [line for line in ours if line not in theirs and worth(line)]
        _append(there, missing)
    except OSError as error:
        raise UsageError(f"--carry {folder}: {error}", advice="name a folder that can be written") from error
    return len(missing)


def _file(build: str, kind: str) -> Path:
    return paths.cache() / "runs" / f"{build}.{kind}"


def _lines(file: Path) -> list[bytes]:
    return [line for line in file.read_bytes().split(b"\n") if line] if file.exists() else []


def _append(file: Path, lines: Sequence[bytes]) -> None:
    if not lines:
        return
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("ab", buffering=0) as stream:
        stream.write(b"".join(line + b"\n" for line in lines))


def append(summary: Summary) -> None:
    """Add a run."""
    run = Run(
        # To the microsecond, so that no two runs have the same line: those are carried once.
        round(time.time(), 6),
        load(),
        summary.kernel,
        summary.areas,
        summary.failures,
        summary.watched,
        {area: suite_digest(area) for area in summary.areas},
    )
    keep(summary.build, HISTORY, run)


def read(build: str) -> tuple[Run, ...]:
    """Return all runs on a build, the oldest first."""
    return kept(build, HISTORY, Run)


def failed_now(runs: Sequence[Run]) -> bool:
    """Say whether any area failed in a run with what judges there today."""
    return any(
        counts.failed and run.suite_of(area) == suite_digest(area)
        for run in runs
        for area, counts in run.areas.items()
    )


def table(runs: Sequence[Run], *, all: bool = True) -> Table:
    """Return, for each area and what judged there, in how many runs all claims were tried, and what failed.

    Without ``all``, only what judges there today.
    """
    shown = Table()
    for column in ("area", "suite", "claims", "whole runs", "runs that failed", "load", "claims that failed"):
        shown.add_column(column)
    for area in sorted({area for run in runs for area in run.areas}):
        of_area = [run for run in runs if area in run.areas]
        for suite in dict.fromkeys(run.suite_of(area) for run in of_area):
            if all or suite == suite_digest(area):
                _row(shown, area, suite, [run for run in of_area if run.suite_of(area) == suite])
    findings = sum(run.watched.findings for run in runs)
    machines = sum(run.watched.machines for run in runs)
    shown.caption = f"looked at from outside: {machines} machines, {findings} findings"
    return shown


def _row(shown: Table, area: str, suite: str, runs: Iterable[Run]) -> None:
    counts = [(run, run.areas[area]) for run in runs]
    most = max(count.claims for _, count in counts)
    whole = [run for run, count in counts if count.claims == most and not count.not_run]
    failed = [run for run, count in counts if count.failed]
    # One that failed in some runs and held in others is unstable, and as bad as one that never holds.
    often = Counter(key for run in failed for key in run.failures if key.startswith(f"{area}/"))
    loads = f"{min(run.load for run in whole):.0f} to {max(run.load for run in whole):.0f}" if whole else ""
    shown.add_row(
        area,
        suite,
        str(most),
        str(len(whole)),
        str(len(failed)),
        loads,
        ", ".join(f"{key} ({often[key]} of {len(counts)})" for key in sorted(often)),
        style="red" if failed else "",
    )
