# SPDX-License-Identifier: MIT
"""A run as one page of HTML that needs nothing beside it: failures first, the consoles in lanes.

The template escapes everything. The page's size has a limit whatever failed: what all failures show
shares a room, and what is cut is said to be.
"""

from __future__ import annotations

import shlex
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from jinja2 import Environment, PackageLoader
from markupsafe import Markup, escape

from harness.report import isolation, pictures
from harness.report.compare import compare
from harness.report.findings import findings
from harness.report.record import Case, Record, Stretch, consoles_on_one_clock, counted, fitted
from harness.report.repeat import repeat
from harness.report.suite import Claim

TEXTS, CONSOLES = 300_000, 600_000
"""Bytes of the page that all failures' evidence shares, and all their consoles."""
PICTURES = 250_000
"""Bytes that the pictures beside failures have together; the first ones get theirs."""
FINDINGS, FINDING = 100, 300
"""Findings that are shown, and bytes of each."""
TEXT_LEAST, TEXT_MOST = 400, 12_000
LINE = 70
"""Bytes that a line's mark-up takes."""
SEEN = 240
"""Bytes of what a test saw that the table of claims shows."""
COLUMNS = ("claims", "passed", "failed", "unstable", "known", "skipped", "not_run")
ALWAYS = {"claims", "passed", "failed"}
STYLES = {
    "passed": "good",
    "failed": "bad",
    "unstable": "bad",
    "not_run": "bad",
    "known": "known",
    "skipped": "skip",
}
ISOLATION = {
    "by hardware": "good",
    "by page tables": "skip",
    "by convention": "known",
    "not at all": "bad",
    "not tried": "quiet",
}
"""The class of each word of the isolation table."""


@dataclass(frozen=True)
class Failure:
    """A failure as the page shows it; ``lines`` are time, lane and text."""

    case: Case
    claim: Claim
    anchor: str
    why: str
    seen: str
    text: str
    command: str
    lanes: tuple[str, ...]
    lines: Sequence[tuple[float, int, str]]
    cut: Sequence[str]
    pictures: Sequence[Markup]
    """When each kernel printed, and whose memory is where; each empty where that is not known."""
    owners: Sequence[tuple[str, str]]
    """The kernels in the picture of memory, with the classes that colour them."""
    undrawn: bool
    """There would be pictures, and the page has no room for them."""


@dataclass(frozen=True)
class _Map:
    """A machine's memory as the page shows it: a picture, and each part with its colour's class."""

    picture: Markup
    kernels: Sequence[str]
    parts: Sequence[tuple[Stretch, str]]

    @classmethod
    def of(cls, parts: Sequence[Stretch]) -> _Map | None:
        if not parts:
            return None
        names = pictures.owners(parts)
        kernels = list(dict.fromkeys(name for part in parts for name in part.mapped))
        return cls(
            pictures.strip(parts), kernels, [(part, pictures.kind(part.claim, names)) for part in parts]
        )


@dataclass(frozen=True)
class Row:
    """A claim in the table of all."""

    outcome: str
    text: str
    source: str
    seen: str
    seconds: float
    anchor: str


def page(record: Record) -> str:
    """Return the run as HTML."""
    loader = PackageLoader("harness.report")
    jinja = Environment(loader=loader, autoescape=True, trim_blocks=True, lstrip_blocks=True)
    css, _, _ = loader.get_source(jinja, "report.css")
    bad = sorted((case for case in record.cases if case.bad), key=lambda case: case.outcome == "not_run")
    found = findings(record)
    # A case that was not run has nothing to show.
    failures = _failures(record, [case for case in bad if case.outcome != "not_run"])
    return jinja.get_template("report.html.j2").render(
        record=record,
        css=Markup(css),
        headline=headline(record),
        outcomes=sorted(counted(record.cases).items(), key=lambda one: list(STYLES).index(one[0])),
        started=time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(record.started)),
        minutes=_duration(record.seconds),
        columns=[name for name in COLUMNS if name in ALWAYS or getattr(record.summary, name)],
        styles=STYLES,
        areas=_areas(record),
        compared=compare(record),
        findings=[(one.kind, fitted(one.what, FINDING), one.keys[:4]) for one in found[:FINDINGS]],
        findings_left=max(0, len(found) - FINDINGS),
        isolation=record.isolation,
        directions=isolation.directions(record.isolation) if record.isolation else [],
        words=ISOLATION,
        map=_Map.of(record.map or next((case.map for case in record.cases if case.map), ())),
        messages=record.messages,
        histogram=pictures.histogram(record.messages) if record.messages else "",
        chosen=" ".join(shlex.quote(word) for word in record.options if word not in {"--trust"}),
        failures=failures,
        undrawn=sum(1 for failure in failures if failure.undrawn),
        claims=_claims(record, failures),
    )


def headline(record: Record) -> str:
    """Say in a line what became of the claims."""
    summary = record.summary
    names = [name for name in COLUMNS[1:] if getattr(summary, name)]
    told = [f"{getattr(summary, name)} {name.replace('_', ' ')}" for name in names]
    told += [f"{len(record.errors)} files not collected"] if record.errors else []
    return f"{summary.claims} claims: {', '.join(told)}" if told else "no claim was checked"


def _areas(record: Record) -> list[tuple[str, Any, float]]:
    seconds = {area: sum(case.seconds for case in cases) for area, cases in record.by_area().items()}
    rows = [(area, counts, seconds.get(area, 0.0)) for area, counts in sorted(record.summary.areas.items())]
    return [*rows, ("all", record.summary, sum(seconds.values()))]


def _failures(record: Record, cases: Sequence[Case]) -> list[Failure]:
    count = max(len(cases), 1)
    room, text = CONSOLES // count, min(max(TEXTS // count, TEXT_LEAST), TEXT_MOST)
    shown, left = [], PICTURES
    for number, case in enumerate(cases, 1):
        drawn = [pictures.lanes(case), pictures.strip(case.map)] if left > 0 else []
        left -= sum(map(len, drawn))
        undrawn = left <= 0 and bool(case.consoles or case.map)
        drawn = [] if undrawn else drawn
        shown.append(_failure(record, case, f"f{number}", (room, text), drawn, undrawn=undrawn))
    return shown


def _failure(
    record: Record,
    case: Case,
    anchor: str,
    rooms: tuple[int, int],
    drawn: Sequence[Markup],
    *,
    undrawn: bool,
) -> Failure:
    room, text = rooms
    names = pictures.owners(case.map)
    every = consoles_on_one_clock(case)
    lines: list[tuple[float, int, str]] = []
    for line in reversed(every):
        room -= len(str(escape(line[2])).encode()) + LINE
        if room < 0:
            break
        lines.insert(0, line)
    cut = [f"{len(every) - len(lines)} earlier lines are in report.json"] if len(lines) < len(every) else []
    cut += [f"{one.kernel}: {one.before:,} bytes before these lines" for one in case.consoles if one.before]
    return Failure(
        case,
        record.claim(case),
        anchor,
        fitted(case.why, max(text // 2, TEXT_LEAST)),
        fitted(case.seen, max(text // 2, TEXT_LEAST)),
        # The text's first line is often all that the text says.
        fitted(case.text, text) if case.text.strip() != case.why.strip() else "",
        repeat(record, case),
        tuple(console.kernel for console in case.consoles),
        lines,
        cut,
        drawn,
        [(name, pictures.kind(name, names)) for name in names],
        undrawn,
    )


def _claims(record: Record, failures: Sequence[Failure]) -> list[tuple[str, list[Row]]]:
    """Return the rows of every area; a claim is told by its worst case."""
    anchors = {failure.case.key: failure.anchor for failure in reversed(failures)}
    areas: dict[str, list[Row]] = {}
    by_key: dict[str, list[Case]] = {}
    for case in record.cases:
        by_key.setdefault(case.key, []).append(case)
    for claim in sorted(record.claims, key=lambda claim: claim.key):
        cases = by_key.get(claim.key, [])
        seen = "; ".join(dict.fromkeys(case.seen or case.why for case in cases if case.seen or case.why))
        row = Row(
            record.summary.outcomes.get(claim.key, "not_run"),
            claim.text,
            claim.source,
            fitted(seen, SEEN),
            sum(case.seconds for case in cases),
            anchors.get(claim.key, ""),
        )
        areas.setdefault(claim.area, []).append(row)
    return list(areas.items())


def _duration(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"
