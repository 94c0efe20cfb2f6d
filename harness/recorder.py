# SPDX-License-Identifier: MIT
"""Collects a run's record while pytest runs, for ``--report``; harness.claims tells it what happens.

A worker under xdist tells what it knows through its reports' ``user_properties`` and, of its build,
through ``workeroutput``.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from harness import failure
from harness.bench_messages import Messages
from harness.errors import HarnessError, UsageError
from harness.isolation import Report as Isolation
from harness.klog.splat import find_splats
from harness.report import folder, gaps, history, record
from harness.report.record import Capability, Case, Console, Facts, Line, Record, Stretch, clip, visible
from harness.report.suite import Suite, Summary, key_of

if TYPE_CHECKING:
    from harness.build import Build
    from harness.capabilities import Found
    from harness.lab import Lab
    from harness.partition import Part, Partition

TOLD = "mkharness_record"
EXPLAINING = ("what happened", "splats", "vCPUs", "blocked tasks and locks", "done last")
"""Sections of harness.diagnose.explain that a report has not otherwise."""
CHOOSE = ("--kernel", "--series", "--base", "--bzimage", "--vmlinux", "--dialect", "--topology")
"""Options with a value that choose kernel and machine; another computer may choose ``--accel`` otherwise."""


class About(msgspec.Struct):
    """What a process knows of the kernel under test."""

    facts: Facts = Facts()
    capabilities: dict[str, Capability] = {}


@dataclass
class _Taken:
    """What is known of a case so far."""

    started: float = 0.0
    seconds: float = 0.0
    phase: str = ""
    seen: list[str] = field(default_factory=list)
    why: list[str] = field(default_factory=list)
    text: list[str] = field(default_factory=list)
    consoles: tuple[Console, ...] = ()
    map: tuple[Stretch, ...] = ()


class Recorder:
    """Collects what becomes of every case; ``page`` is the report's page, once that is written."""

    def __init__(self, config: pytest.Config) -> None:
        self.config = config
        self.about = About()
        self.page: Path | None = None
        self._started = time.time()
        self._taken: dict[str, _Taken] = {}
        self._errors: dict[str, str] = {}
        self._room = record.CONSOLES
        self._map: tuple[Stretch, ...] = ()
        self._before: record.Earlier | None = None

    @property
    def _folder(self) -> Path | None:
        """Where the reports go; a worker writes none."""
        told = self.config.getoption("--report")
        if not told or hasattr(self.config, "workerinput"):
            return None
        return Path(self.config.invocation_params.dir, told)

    def configure(self) -> None:
        """Look at the options before anything runs. Raises UsageError."""
        place, against = self._folder, self.config.getoption("--against")
        if place is None:
            return
        if place.exists() and not place.is_dir():
            raise UsageError(f"--report {place} is no folder", advice="name another, or one to be made")
        if against:
            self._before = record.earlier(record.read(Path(self.config.invocation_params.dir, against)))

    def runs_on(self, build: Build) -> None:
        """Note the build under test. Raises UsageError when another one was asked for."""
        from harness.build import store

        wanted = self.config.getoption("--build")
        if wanted and not build.digest.startswith(wanted):
            raise UsageError(
                f"this is build {build.digest}, and --build asks for {wanted}",
                advice="`mkh store show DIGEST` tells of both from what they were made",
            )
        meta = store.read_meta(build.folder)
        self.about.facts = Facts(
            build.digest,
            build.version,
            meta.spawned_release,
            visible(build.source),
            meta.inputs.get("series", "") if meta.patches else "",
            meta.patches,
            meta.created,
            meta.seconds,
        )

    def can(self, found: Mapping[str, Found]) -> None:
        """Note what the kernel can do."""
        self.about.capabilities = {
            name: Capability(one.present, clip(visible(one.evidence), record.SEEN))
            for name, one in found.items()
        }

    def tell(self) -> dict[str, str]:
        """Return what a worker tells the process that hands out tests."""
        return {TOLD: msgspec.json.encode(self.about).decode()}

    def hear(self, told: Mapping[str, Any]) -> None:
        """Take in what a worker told."""
        about = msgspec.json.decode(told.get(TOLD, "{}"), type=About)
        if about.facts.digest:
            self.about.facts = about.facts
        self.about.capabilities = about.capabilities or self.about.capabilities

    def collected(self, report: pytest.CollectReport) -> None:
        """Note a test file that cannot be collected."""
        if report.failed:
            self._errors[visible(report.nodeid)] = clip(visible(report.longreprtext), record.TEXT)

    def took(self, report: pytest.TestReport, outcome: str, why: str) -> None:
        """Note one phase of a case."""
        if self._folder is None:
            return
        case = self._taken.setdefault(report.nodeid, _Taken())
        case.started = case.started or report.start
        case.seconds += report.duration
        if report.when == "call":
            case.seen += [visible(str(value)) for key, value in report.user_properties if key == "seen"]
        for key, value in report.user_properties:
            if key == "map":
                self._map = self._map or msgspec.json.decode(str(value), type=tuple[Stretch, ...])
        if why:
            case.why.append(visible(why))
        if outcome == "failed":
            case.phase = case.phase or _phase(report)
            case.text.append(visible(report.longreprtext))
            case.text += [
                f"{title}:\n{visible(text)}"
                for title, text in report.sections
                if title.startswith("Captured") or title in EXPLAINING
            ]
            self._print(case, report)

    def _print(self, case: _Taken, report: pytest.TestReport) -> None:
        """Take in the consoles, as seconds since the case began, as long as there is room."""
        for key, value in report.user_properties:
            if key == "failed map":
                case.map = msgspec.json.decode(str(value), type=tuple[Stretch, ...])
            if key != "consoles":
                continue
            told = msgspec.json.decode(str(value), type=tuple[Console, ...])
            self._room -= sum(len(line.text) for console in told for line in console.lines)
            if self._room >= 0:
                case.consoles = tuple(_since(case.started, console) for console in told)

    def write(self, suite: Suite, summary: Summary, objections: Sequence[str]) -> None:
        """Write the reports, where they are asked for."""
        place = self._folder
        if place is None or self.config.getoption("--collect-only"):
            return
        folder.write(place, self._record(suite, summary, objections))
        self.page = place / folder.PAGE

    def _record(self, suite: Suite, summary: Summary, objections: Sequence[str]) -> Record:
        digest = self.about.facts.digest
        ended = time.time()
        kept = {one.test: str(one.folder) for one in failure.all() if one.ended >= self._started}
        return Record(
            started=self._started,
            seconds=round(ended - self._started, 3),
            load=history.load(),
            summary=msgspec.structs.replace(
                summary,
                failures={key: clip(visible(why), record.SEEN) for key, why in summary.failures.items()},
            ),
            claims=tuple(suite.claims.values()),
            cases=record.within_limits(
                [self._case(test, outcome, kept) for test, outcome in suite.cases().items()]
            ),
            options=options_of(self.config),
            facts=self.about.facts,
            capabilities=dict(self.about.capabilities),
            errors=self._errors,
            objections=tuple(map(visible, objections)),
            # They are kept in whole seconds.
            gaps=tuple(one for one in gaps.read(digest) if self._started - 1 <= one.at <= ended + 1),
            before=self._before,
            map=self._map,
            isolation=next(reversed(history.kept(digest, record.ISOLATION, Isolation)), None),
            messages=next(reversed(history.kept(digest, record.MESSAGES, Messages)), None),
        )

    def _case(self, test: str, outcome: str, kept: Mapping[str, str]) -> Case:
        taken = self._taken.get(test, _Taken())
        return Case(
            visible(test),
            key_of(test),
            outcome,
            round(taken.started, 3),
            round(taken.seconds, 3),
            taken.phase if outcome == "failed" else "",
            clip("; ".join(taken.seen), record.SEEN),
            clip("; ".join(dict.fromkeys(taken.why)), record.SEEN),
            clip("\n\n".join(taken.text), record.TEXT),
            taken.consoles,
            taken.map,
            visible(kept.get(test, "")) if outcome == "failed" else "",
        )


def options_of(config: pytest.Config) -> tuple[str, ...]:
    """Return the options of a run that choose kernel, build and machine, for wherever it is repeated."""
    option = config.getoption
    words: list[str] = []
    for name in CHOOSE:
        value = option(name)
        if value is not None:
            local = Path(config.invocation_params.dir, str(value))
            # A folder of patches is named wherever the command is repeated.
            path = name != "--kernel" and "/" in str(value) and local.exists()
            words += [name, str(local.resolve()) if path else str(value)]
    words += ["--accel", option("--accel")] if option("--accel") != "auto" else []
    words += ["--trust"] if option("--trust") else []
    words += [] if option("oracles") else ["--no-oracles"]
    return tuple(words)


def consoles_of(lab: Lab) -> str:
    """Return the last lines of a machine's consoles as JSON; see ``last_lines``."""
    return msgspec.json.encode(last_lines(lab)).decode()


def last_lines(lab: Lab) -> tuple[Console, ...]:
    """Return the last lines of a machine's consoles, in seconds since 1970, within limits."""
    since_1970 = time.time() - time.monotonic()
    found = []
    # The host first, as in memory: so a kernel has one colour in all pictures.
    for name, console in sorted(lab.machine.consoles.items(), key=lambda one: one[0] != "host"):
        lines, before = console.last(record.LINES)
        shown = tuple(Line(one.time + since_1970, clip(visible(one.text), record.WIDTH)) for one in lines)
        if shown:
            splats = tuple(
                Line(shown[one.first].at, clip(visible(one.title), record.WIDTH))
                for one in find_splats([line.text for line in lines])
            )
            found.append(Console(name, shown, before, splats))
    return tuple(found)


def map_of(partition: Partition) -> str:
    """Return a machine's memory as JSON; empty where it has ended."""
    try:
        return stretches(partition.map())
    except HarnessError:
        return "[]"


def stretches(parts: Iterable[Part]) -> str:
    """Return a map of a machine's memory as JSON."""
    told = [
        Stretch(part.region.start, part.region.size, part.claim, part.why, part.written, part.mapped)
        for part in parts
    ]
    return msgspec.json.encode(told).decode()


def _since(started: float, console: Console) -> Console:
    def moved(lines: Sequence[Line]) -> tuple[Line, ...]:
        return tuple(Line(round(line.at - started, 3), line.text) for line in lines)

    return msgspec.structs.replace(console, lines=moved(console.lines), splats=moved(console.splats))


def _phase(report: pytest.TestReport) -> str:
    return report.when if report.when in {"setup", "call", "teardown"} else "worker"
