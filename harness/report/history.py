# SPDX-License-Identifier: MIT
"""All runs of the suite on a build, one line each: how often did which area hold?

A verdict on flakes needs many runs, and they come from many sessions. Each run adds its line to
``runs/DIGEST.history`` in the cache. The suite's own digest stands in it: a run of another suite says
nothing about this one.
"""

from __future__ import annotations

import hashlib
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from functools import cache
from pathlib import Path
from typing import TypeVar

import msgspec
from rich.table import Table

from harness import paths
from harness.report.suite import Counts, Summary, Watched

SUITE = ("tests/conformance/**/*.py", "harness/**/*.py")
"""What decides how a build is judged."""


T = TypeVar("T")


class Run(msgspec.Struct, frozen=True):
    """One run: when it ended (seconds since 1970), of which suite, and what it showed."""

    ended: float
    suite: str
    load: float
    kernel: str
    areas: dict[str, Counts]
    failures: dict[str, str]
    watched: Watched


@cache
def suite_digest() -> str:
    """Return a digest of the suite's files and the harness'."""
    files = sorted(file for pattern in SUITE for file in paths.CHECKOUT.glob(pattern))
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()[:12]


def load() -> float:
    """Return how many processes want a core, over the last minute."""
    return float(Path("/proc/loadavg").read_text(encoding="ascii").split()[0])


def keep(build: str, kind: str, what: msgspec.Struct) -> None:
    """Add a line about a build to its file of this kind: one write, so several processes may at once."""
    file = _file(build, kind)
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("ab", buffering=0) as stream:
        stream.write(msgspec.json.encode(what) + b"\n")


def kept(build: str, kind: str, type: type[T]) -> tuple[T, ...]:
    """Return all that was kept so, the oldest first; a line that is none is passed over."""
    try:
        lines = _file(build, kind).read_bytes().splitlines()
    except OSError:
        return ()
    found = []
    for line in lines:
        try:
            found.append(msgspec.json.decode(line, type=type))
        except msgspec.MsgspecError:
            continue
    return tuple(found)


def _file(build: str, kind: str) -> Path:
    return paths.cache() / "runs" / f"{build}.{kind}"


def append(summary: Summary) -> None:
    """Add a run."""
    run = Run(
        round(time.time()),
        suite_digest(),
        load(),
        summary.kernel,
        summary.areas,
        summary.failures,
        summary.watched,
    )
    keep(summary.build, "history", run)


def read(build: str) -> tuple[Run, ...]:
    """Return all runs on a build, the oldest first."""
    return kept(build, "history", Run)


def table(runs: Sequence[Run]) -> Table:
    """Return, for each suite and area, in how many runs all of its claims were tried, and what failed."""
    shown = Table()
    for column in ("suite", "area", "claims", "whole runs", "runs that failed", "load", "claims that failed"):
        shown.add_column(column)
    for suite in dict.fromkeys(run.suite for run in runs):
        of_suite = [run for run in runs if run.suite == suite]
        for area in sorted({area for run in of_suite for area in run.areas}):
            _row(shown, suite, area, of_suite)
    findings = sum(run.watched.findings for run in runs)
    machines = sum(run.watched.machines for run in runs)
    shown.caption = f"looked at from outside: {machines} machines, {findings} findings"
    return shown


def _row(shown: Table, suite: str, area: str, runs: Iterable[Run]) -> None:
    counts = [(run, run.areas[area]) for run in runs if area in run.areas]
    most = max(count.claims for _, count in counts)
    whole = [run for run, count in counts if count.claims == most and not count.not_run]
    failed = [run for run, count in counts if count.failed]
    # One that failed in some runs and held in others is unstable, and as bad as one that never holds.
    often = Counter(key for run in failed for key in run.failures if key.startswith(f"{area}/"))
    loads = f"{min(run.load for run in whole):.0f} to {max(run.load for run in whole):.0f}" if whole else ""
    shown.add_row(
        suite,
        area,
        str(most),
        str(len(whole)),
        str(len(failed)),
        loads,
        ", ".join(f"{key} ({often[key]} of {len(counts)})" for key in sorted(often)),
        style="red" if failed else "",
    )
