# SPDX-License-Identifier: MIT
"""How long kernels stood still while another failed or was replaced, beside a quiet time just before.

One line for each bystander and each time, in ``runs/DIGEST.gaps`` of the cache: a figure needs many,
and they come from many sessions. `mkh runs --gaps` shows them.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from statistics import median

import msgspec
from rich.table import Table

from harness.oracle.gaps import Gaps
from harness.report import history

KIND = "gaps"
BEAT = 10.0
"""Milliseconds between two beats; what counts faster, the payload, is held to the same."""
QUIET = 3.0
"""Processes that want a core, below which a gap tells of the kernels and not of this computer."""
MOST = 3.0
"""Times the quiet time's longest gap, above which a gap is told."""


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
    def quiet(self) -> bool:
        """Whether nothing else wanted this computer's cores, to speak of."""
        return self.load < QUIET

    @property
    def ratio(self) -> float:
        """How much longer than in the quiet time the longest gap was, of a beat every BEAT ms."""
        return _ratio(self.seen.ms, self.idle.ms)

    @property
    def net_ratio(self) -> float:
        """The same of the net gaps."""
        return _ratio(self.seen.net_ms, self.idle.net_ms)

    @property
    def turned(self) -> Record:
        """The quiet time taken for the event, and the event for the quiet time.

        Where gaps come from the computer and not from what happened, these are over MOST as often.
        """
        return msgspec.structs.replace(self, idle=self.seen, seen=self.idle)


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
        history.keep(build, KIND, record)
    return records


def read(build: str) -> tuple[Record, ...]:
    """Return all that was kept of a build, the oldest first."""
    return history.kept(build, KIND, Record)


def carry(build: str, folder: Path) -> int:
    """Let a folder carry a build's records of quiet times to other computers; see history.carry."""
    return history.carry(build, folder, KIND, _of_quiet_times)


def _of_quiet_times(line: bytes) -> bool:
    try:
        return msgspec.json.decode(line, type=Record).quiet
    except msgspec.MsgspecError:
        return False


def line(records: Sequence[Record]) -> str:
    """Say in a line what the longest gaps were, for a test's ``seen``."""
    return "; ".join(
        f"{one.bystander}'s longest gap {one.seen.ms:.0f} ms ({one.seen.net_ms:.0f} net),"
        f" idle {one.idle.ms:.0f} ({one.idle.net_ms:.0f})"
        for one in records
    )


def table(records: Sequence[Record]) -> Table:
    """Return, for each kind of event, how often it was watched, and the ratios of longest gap to idle's.

    The figures are those of quiet times; of all, where there were none.
    """
    shown = Table()
    for column in (
        *("what happened", "bystander", "times", "quiet", "longest gap, ms", "of idle: median", "worst"),
        *(f"over {MOST:.0f}", "net, ms", "of idle: median", "worst"),
    ):
        shown.add_column(column)
    for kind, name in sorted({(record.kind, record.bystander) for record in records}):
        every = [one for one in records if (one.kind, one.bystander) == (kind, name)]
        quiet = [one for one in every if one.quiet]
        some = quiet or every
        ratios, net = _ratios(some)
        shown.add_row(
            kind,
            name,
            str(len(every)),
            str(len(quiet)),
            f"{max(one.seen.ms for one in some):.0f}",
            f"{median(ratios):.1f}",
            f"{max(ratios):.1f}",
            str(sum(ratio > MOST for ratio in ratios)),
            f"{max(one.seen.net_ms for one in some):.0f}",
            f"{median(net):.1f}",
            f"{max(net):.1f}",
            style="" if quiet else "dim",
        )
    quiet = [one for one in records if one.quiet]
    over, net_over = _over(quiet)
    turned, net_turned = _over(one.turned for one in quiet)
    shown.caption = (
        f"quiet: fewer than {QUIET:g} processes wanted a core; {len(quiet)} of {len(records)} records are."
        f" In {over} of these the gap was over {MOST:.0f} times the idle one, in {net_over} the net gap;"
        f" the other way round the idle gap in {turned}, net in {net_turned}"
    )
    return shown


def _ratio(gap: float, other: float) -> float:
    return gap / max(other, BEAT)


def _ratios(records: Sequence[Record]) -> tuple[list[float], list[float]]:
    return [one.ratio for one in records], [one.net_ratio for one in records]


def _over(records: Iterable[Record]) -> tuple[int, int]:
    """Return in how many records the gap, and in how many the net gap, was over MOST times the other."""
    whole, net = _ratios(list(records))
    return sum(one > MOST for one in whole), sum(one > MOST for one in net)
