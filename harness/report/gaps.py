# SPDX-License-Identifier: MIT
"""How long kernels stood still while another failed or was replaced, beside a quiet time just before.

One line for each bystander and each time, in ``runs/DIGEST.gaps`` of the cache: a figure needs many,
and they come from many sessions. `mkh runs --gaps` shows them.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from statistics import median

import msgspec
from rich.table import Table

from harness.oracle.gaps import Gaps
from harness.report import history


class Figures(msgspec.Struct, frozen=True):
    """The longest gap of one kernel in one watch, in ms, whole and net, and the watch's length."""

    ms: float
    net_ms: float
    beats: int
    seconds: float


class Record(msgspec.Struct, frozen=True):
    """One bystander at one time: what happened beside it, and its gaps then and in a quiet time before.

    ``at`` is in seconds since 1970; ``load`` how many processes wanted this computer's cores.
    """

    at: float
    kind: str
    bystander: str
    idle: Figures
    seen: Figures
    load: float

    @property
    def ratio(self) -> float:
        """How much longer than in the quiet time the longest gap was."""
        return self.seen.ms / self.idle.ms if self.idle.ms else 0.0

    @property
    def net_ratio(self) -> float:
        """The same of the net gaps, to the quiet time's nearest millisecond at the least."""
        return self.seen.net_ms / max(self.idle.net_ms, 1.0)


def figures(gaps: Gaps, kernel: str) -> Figures:
    """Return one kernel's figures of a watch that is over."""
    service = gaps[kernel]
    return Figures(
        round(service.longest_ms, 1), round(service.net_ms, 1), service.beats, round(gaps.seconds, 2)
    )


def keep(build: str, kind: str, idle: Gaps, seen: Gaps, bystanders: Iterable[str]) -> tuple[Record, ...]:
    """Keep what two watches saw of each bystander under a build's digest; return it."""
    now, load = round(time.time()), history.load()
    records = tuple(
        Record(now, kind, name, figures(idle, name), figures(seen, name), load) for name in bystanders
    )
    for record in records:
        history.keep(build, history.GAPS, record)
    return records


def read(build: str) -> tuple[Record, ...]:
    """Return all that was kept of a build, the oldest first."""
    return history.kept(build, history.GAPS, Record)


def line(records: Sequence[Record]) -> str:
    """Say in a line what the longest gaps were, for a test's ``seen``."""
    return "; ".join(
        f"{one.bystander}'s longest gap {one.seen.ms:.0f} ms ({one.seen.net_ms:.0f} net),"
        f" idle {one.idle.ms:.0f} ({one.idle.net_ms:.0f})"
        for one in records
    )


def table(records: Sequence[Record]) -> Table:
    """Return, for each kind of event, how often it was watched, and the ratios of longest gap to idle's."""
    shown = Table()
    for column in (
        *("what happened", "bystander", "times", "load", "longest gap, ms", "of idle: median", "worst"),
        *("net, ms", "of idle: median", "worst"),
    ):
        shown.add_column(column)
    for kind, name in sorted({(record.kind, record.bystander) for record in records}):
        some = [one for one in records if (one.kind, one.bystander) == (kind, name)]
        ratios, net = [one.ratio for one in some], [one.net_ratio for one in some]
        loads = [one.load for one in some]
        shown.add_row(
            kind,
            name,
            str(len(some)),
            f"{min(loads):.0f} to {max(loads):.0f}",
            f"{max(one.seen.ms for one in some):.0f}",
            f"{median(ratios):.1f}",
            f"{max(ratios):.1f}",
            f"{max(one.seen.net_ms for one in some):.0f}",
            f"{median(net):.1f}",
            f"{max(net):.1f}",
        )
    return shown
