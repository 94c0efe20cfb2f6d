# SPDX-License-Identifier: MIT
"""A run beside an earlier one: what fails now and did not, what is mended, unstable, gone, slower."""

from __future__ import annotations

from collections.abc import Mapping
from statistics import median

import msgspec

from harness.report.record import Record, earlier

BAD = {"failed", "unstable", "not_run"}
SLOWER, SECONDS = 2.0, 5.0
"""A claim is slower when it took so many times as long, the run's pace taken out, and so many s more."""


class Slower(msgspec.Struct, frozen=True):
    """A claim, its seconds before and now, and how many times as long it took, the run's pace taken out."""

    key: str
    before: float
    now: float
    ratio: float


class Comparison(msgspec.Struct, frozen=True):
    """Keys of claims; ``new`` fail now and did not, or were not there; ``gone`` are no more in the suite."""

    new: tuple[str, ...]
    fixed: tuple[str, ...]
    still: tuple[str, ...]
    unstable: tuple[str, ...]
    gone: tuple[str, ...]
    slower: tuple[Slower, ...]
    pace: float
    """How many times as long as before the median claim took: another computer, another load."""


def new_failures(now: Mapping[str, str], before: Mapping[str, str]) -> list[str]:
    """Return the claims that fail now and did not before, one that was not there before included."""
    return [key for key, outcome in now.items() if outcome in BAD and before.get(key) not in BAD]


def compare(record: Record) -> Comparison | None:
    """Compare a run with its earlier one; None where it has none."""
    if record.before is None:
        return None
    now, before = record.summary.outcomes, record.before.outcomes
    slower, pace = _slower(earlier(record).seconds, record.before.seconds)
    return Comparison(
        new=tuple(new_failures(now, before)),
        fixed=tuple(key for key, was in before.items() if was in BAD and now.get(key) == "passed"),
        still=tuple(key for key, is_ in now.items() if is_ in BAD and before.get(key) in BAD),
        unstable=tuple(key for key, is_ in now.items() if "unstable" in {is_, before.get(key)}),
        gone=tuple(key for key in before if key not in now),
        slower=slower,
        pace=pace,
    )


def _slower(now: Mapping[str, float], before: Mapping[str, float]) -> tuple[tuple[Slower, ...], float]:
    ratios = {key: now[key] / was for key, was in before.items() if was > 0 and now.get(key, 0) > 0}
    pace = median(ratios.values()) if ratios else 1.0
    found = [
        Slower(key, before[key], now[key], ratio / pace)
        for key, ratio in ratios.items()
        if ratio / pace >= SLOWER and now[key] - before[key] * pace >= SECONDS
    ]
    return tuple(sorted(found, key=lambda one: -one.ratio)), pace
