# SPDX-License-Identifier: MIT
"""A run's claims, counted so that nothing is hidden: passed, failed, known, skipped, not run.

A claim is one test function, whatever its parameters; it is named by its place in
``tests/conformance/``, whose folders are the areas. It failed when one of its cases did, is ``known``
when one failed as the kernel's list of known bugs says, and passed when what ran of it passed.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import msgspec
from rich.table import Table
from rich.text import Text

from harness.report.columns import printable

FOLDER = "tests/conformance/"
EACH_CASE = "faults/"
"""The area in which every case of a test is a claim of its own: another fault. Its text may name the case."""
OUTCOMES = ("failed", "known", "mended", "passed", "skipped", "not_run")
"""In this order, the first that one of a claim's cases has is the claim's. ``mended``, for a case that
should have failed as known, is in the end ``failed`` or ``passed``."""
_STYLES = {"failed": "bold red", "known": "yellow", "passed": "green", "skipped": "cyan", "not_run": "red"}


class Claim(msgspec.Struct, frozen=True):
    """One claim of the suite, as collected: ``key`` is ``AREA/FILE.py::TEST``."""

    key: str
    text: str
    source: str
    needs: tuple[str, ...] = ()

    @property
    def area(self) -> str:
        """The folder that its test is in."""
        return self.key.partition("/")[0]


class Result(msgspec.Struct, frozen=True):
    """What became of a claim; ``seen`` is what its test saw, or why it did not run."""

    claim: Claim
    outcome: str
    seen: str


class Watched(msgspec.Struct):
    """What was seen from outside: how many machines were looked at after a test, how much was found.

    ``reach`` says that page tables were judged, too; ``fixed`` is the memory agreed on as nobody's
    alone, bytes by what it is for, the most that any machine had.
    """

    machines: int = 0
    findings: int = 0
    reach: bool = False
    fixed: dict[str, int] = {}

    def add(self, other: Watched) -> None:
        """Add what was seen of another machine."""
        self.machines += other.machines
        self.findings += other.findings
        self.reach = self.reach or other.reach
        self.fixed = {
            why: max(self.fixed.get(why, 0), other.fixed.get(why, 0)) for why in self.fixed | other.fixed
        }

    def __str__(self) -> str:
        fixed = ", ".join(f"{size >> 10:,} KiB ({why})" for why, size in self.fixed.items())
        what = "memory, page tables, CPUs" if self.reach else "memory, CPUs"
        return (
            f"looked at from outside ({what}): {self.machines} machines, {self.findings} findings;"
            f" agreed on as nobody's alone: {fixed}"
        )


class Counts(msgspec.Struct):
    """How many claims there are, and how many of them ended in which way."""

    claims: int = 0
    passed: int = 0
    failed: int = 0
    unstable: int = 0
    known: int = 0
    skipped: int = 0
    not_run: int = 0


class Summary(Counts):
    """The counts of a run, in all and by area, with the build, and what failed or could not be tried."""

    kernel: str = ""
    build: str = ""
    areas: dict[str, Counts] = {}
    capabilities: dict[str, bool] = {}
    failures: dict[str, str] = {}
    outcomes: dict[str, str] = {}
    watched: Watched = msgspec.field(default_factory=Watched)


def key_of(nodeid: str) -> str:
    """Return the key of the claim that a test case belongs to; empty when it is none of the suite's."""
    path, _, case = nodeid.partition("[")
    key = path.partition(FOLDER)[2]
    return f"{key}[{case}" if case and key.startswith(EACH_CASE) else key


@dataclass
class Suite:
    """Collects a run's claims and what became of their cases. Cases are pytest's node ids."""

    claims: dict[str, Claim] = field(default_factory=dict)
    strict: bool = False
    """Whether a case that is known to fail, and does not, counts as failed."""
    _cases: dict[str, str] = field(default_factory=dict)
    _seen: dict[str, list[str]] = field(default_factory=dict)

    def collected(self, case: str, claim: Claim | None = None) -> None:
        """Note that a case is to be run, and the claim that it belongs to where that is known."""
        key = key_of(case)
        if not key:
            return
        self._cases.setdefault(case, "not_run")
        if claim is not None or key not in self.claims:
            self.claims[key] = claim or Claim(key, key, "")

    def dropped(self, case: str) -> None:
        """Forget a case that turned out to have no claim."""
        self._cases.pop(case, None)

    def ended(self, case: str, outcome: str, claim: Claim | None, seen: str) -> None:
        """Note what became of a case, or of one of its phases: the worst counts."""
        self.collected(case, claim)
        if case not in self._cases:
            return
        if OUTCOMES.index(outcome) < OUTCOMES.index(self._cases[case]):
            self._cases[case] = outcome
        if seen:
            self._seen.setdefault(key_of(case), []).append(seen)

    def mended(self) -> list[str]:
        """Return the cases that are known to fail and did not."""
        return [case for case, outcome in self._cases.items() if outcome == "mended"]

    def cases(self) -> dict[str, str]:
        """Return what became of every case, in the order in which they were collected."""
        mended = "failed" if self.strict else "passed"
        return {case: mended if end == "mended" else end for case, end in self._cases.items()}

    def results(self) -> tuple[Result, ...]:
        """Return every claim with what became of it."""
        by_claim: dict[str, list[str]] = {}
        for case, outcome in self.cases().items():
            by_claim.setdefault(key_of(case), []).append(outcome)
        return tuple(
            Result(self.claims[key], min(outcomes, key=OUTCOMES.index), "; ".join(self._seen.get(key, ())))
            for key, outcomes in sorted(by_claim.items())
        )


def summarize(results: Iterable[Result]) -> Summary:
    """Count results."""
    summary = Summary()
    for result in results:
        area = summary.areas.setdefault(result.claim.area, Counts())
        for counts in (summary, area):
            counts.claims += 1
            setattr(counts, result.outcome, getattr(counts, result.outcome) + 1)
        summary.outcomes[result.claim.key] = result.outcome
        if result.outcome == "failed":
            summary.failures[result.claim.key] = result.seen
    return summary


def mark_unstable(summary: Summary, key: str) -> None:
    """Count a claim that failed, and held when it was tried again, as unstable."""
    for counts in (summary, summary.areas[key.partition("/")[0]]):
        counts.failed -= 1
        counts.unstable += 1
    summary.outcomes[key] = "unstable"


def objections(summary: Counts, allowed_skips: int | None) -> list[str]:
    """Say why a run without a failed test is no success all the same; ``allowed_skips`` None allows any."""
    said = []
    if summary.not_run:
        said.append(f"{summary.not_run} claims were not run")
    if allowed_skips is not None and summary.skipped > allowed_skips:
        said.append(
            f"{summary.skipped} claims were skipped; the kernel's definition allows {allowed_skips}"
            " (`skips`): is a capability gone?"
        )
    if summary.claims and not summary.passed + summary.known + summary.failed:
        said.append("no claim was checked")
    return said


def results_table(results: Sequence[Result]) -> Table:
    """Return one row per claim, failures first."""
    table = Table(expand=True)
    for name, ratio in (("verdict", None), ("area", None), ("claim", 3), ("seen", 4), ("source", 2)):
        table.add_column(name, ratio=ratio, style="dim" if name == "source" else "")
    for result in sorted(results, key=lambda result: OUTCOMES.index(result.outcome)):
        mark = Text(result.outcome.replace("_", " "), style=_STYLES[result.outcome])
        claim = result.claim
        cells = (claim.text, printable(result.seen), claim.source)
        table.add_row(mark, claim.area, *map(Text, cells))
    return table


def counts_table(summary: Summary) -> Table:
    """Return one row per area, and one for all of them."""
    table = Table()
    names = ("claims", "passed", "failed", "unstable", "known", "skipped", "not_run")
    for name in ("area", *names):
        table.add_column(name.replace("_", " "), justify="left" if name == "area" else "right")
    for area, counts in (*sorted(summary.areas.items()), ("all", summary)):
        table.add_row(area, *(str(getattr(counts, name)) for name in names))
    return table


def capabilities_table(summary: Summary) -> Table:
    """Return what the build can do, and what it cannot."""
    table = Table()
    for column in ("build", "can", "cannot"):
        table.add_column(column)
    sorted_out = (
        ", ".join(name for name, present in summary.capabilities.items() if present is wanted)
        for wanted in (True, False)
    )
    table.add_row(f"{summary.kernel} {summary.build[:12]}", *sorted_out)
    return table


def claims_list(claims: Iterable[Claim]) -> Table:
    """Return the claims as a table: area, claim, needs, source."""
    table = Table(expand=True)
    for name, ratio in (("area", None), ("claim", 4), ("needs", 1), ("source", 3)):
        table.add_column(name, ratio=ratio)
    for claim in claims:
        table.add_row(claim.area, claim.text, ", ".join(claim.needs), claim.source)
    return table
