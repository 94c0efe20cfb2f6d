# SPDX-License-Identifier: MIT
"""Claims in a pytest run: which there are, which are known to fail, what became of each, the verdict.

Registered by harness.plugin as soon as a run has a test with a claim.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from harness import known
from harness.definition import load_definition
from harness.errors import HarnessError
from harness.recorder import Recorder
from harness.report import history, suite
from harness.report.suite import Claim, Result, Suite

if TYPE_CHECKING:
    from rich.console import Console

NAME = "mkharness-claims"
FEW = 100


def is_failure(error: BaseException) -> bool:
    """Say whether a claim that does not hold raised this; anything else is the harness's own fault."""
    if isinstance(error, BaseExceptionGroup):  # Several parts of a tear-down.
        return all(map(is_failure, error.exceptions))
    return isinstance(error, (AssertionError, HarnessError, pytest.fail.Exception))


class Claims:
    """Counts a run's claims; its summary is written below the tests, and into ``--claims FILE``."""

    def __init__(self, config: pytest.Config) -> None:
        self.config = config
        self.suite = Suite()
        self.capabilities: Mapping[str, bool] = {}
        self.build = ""
        self.skips: int | None = None
        self.watched = suite.Watched()
        self.recorder = Recorder(config)

    def collected(self, items: Iterable[pytest.Item]) -> None:
        """Mark tests that are known to fail, and note the claims of those that have one."""
        bugs, _ = self._known
        failure = pytest.RaisesExc(BaseException, check=is_failure)
        for item in items:
            bug = bugs.find(item.nodeid.partition(suite.FOLDER)[2])
            if bug is not None:
                reason = f"{bug.bug}: {bug.why}"
                # Not strict: a test may fail as known in its tear-down, after a call that passed.
                item.add_marker(pytest.mark.xfail(reason=reason, raises=failure, strict=False))
            marker = item.get_closest_marker("claim")
            if marker is not None:
                claim = claim_of(item, marker)
                item.user_properties.append(("claim", msgspec.json.encode(claim).decode()))
                self.suite.collected(item.nodeid, claim)

    @cached_property
    def _known(self) -> tuple[known.Known, bool]:
        """Read the known bugs of the kernel under test; strict for the very series that they name."""
        from harness.build import series

        definition = load_definition(self.config.getoption("--kernel"))
        found = known.read(definition)
        if not found.series:
            return found, False
        place = self.config.getoption("--series") or definition.series
        return found, series.read(place).digest in found.series

    @pytest.hookimpl(optionalhook=True)
    def pytest_xdist_node_collection_finished(self, ids: Sequence[str]) -> None:
        """Note what the workers are to run; the process that hands it out collects nothing."""
        for case in ids:
            self.suite.collected(case)

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, node: Any) -> None:
        """Take what a worker tells of its kernel."""
        told = getattr(node, "workeroutput", {})
        self.build = told.get("mkharness_build", self.build)
        self.skips = told.get("mkharness_skips", self.skips)
        self.capabilities = told.get("mkharness_capabilities", self.capabilities)
        self.recorder.hear(told)

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        """Note a test file that cannot be collected."""
        self.recorder.collected(report)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Count what became of a test."""
        count(self.suite, report)
        self.recorder.took(report, *judged(report))
        for key, value in report.user_properties:
            if key == "watched" and report.when == "teardown":
                self.watched.add(msgspec.json.decode(str(value), type=suite.Watched))

    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        """Let no run succeed that hides something; tell the other process what this one found."""
        output = getattr(self.config, "workeroutput", None)
        if output is not None:
            output["mkharness_build"] = self.build
            output["mkharness_skips"] = self.skips
            output["mkharness_capabilities"] = dict(self.capabilities)
            output.update(self.recorder.tell())
            return
        if session.exitstatus == pytest.ExitCode.OK and self.objections():
            session.exitstatus = pytest.ExitCode.TESTS_FAILED
        summary = self.summary()
        if summary.build and summary.areas:
            history.append(summary)
        file = self.config.getoption("--claims")
        if file:
            Path(file).write_bytes(msgspec.json.encode(summary))
        self.recorder.write(self.suite, summary, self.objections())

    def objections(self) -> list[str]:
        """Say why this run is no success although no test failed."""
        if self.config.getoption("--collect-only"):
            return []
        definition = load_definition(self.config.getoption("--kernel"))
        mended = [
            f"{case} is listed in {known.file_of(definition).name} and fails no more"
            for case in self.suite.mended()
            if self._known[1]
        ]
        return mended + suite.objections(self.summary(), self.skips)

    def _results(self) -> tuple[Result, ...]:
        self.suite.strict = self._known[1]
        return self.suite.results()

    def summary(self) -> suite.Summary:
        """Return the counts so far."""
        summary = suite.summarize(self._results())
        kernel = self.config.getoption("--bzimage") or self.config.getoption("--kernel")
        summary.kernel, summary.build = str(kernel), self.build
        summary.capabilities = dict(self.capabilities)
        summary.watched = self.watched
        return summary

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """Print what became of the claims, and what the kernel can do."""
        from rich.console import Console

        if self.config.getoption("--collect-only"):
            return
        terminalreporter.section("claims")
        width = None if terminalreporter.isatty else 160
        self.tell(Console(file=terminalreporter._tw._file, width=width))

    def tell(self, display: Console) -> None:
        """Print it to any terminal or file."""
        summary = self.summary()
        results = self._results()
        # A run of a few is looked at whole, of many only what is not as it should be.
        shown = results if len(results) <= FEW else [one for one in results if one.outcome != "passed"]
        if shown:
            display.print(suite.results_table(shown))
        display.print(suite.counts_table(summary))
        if self.capabilities:
            display.print(suite.capabilities_table(summary))
        if self.watched.machines:
            _line(display, str(self.watched), "red" if self.watched.findings else "")
        for objection in self.objections():
            _line(display, f"no success: {objection}", "red")
        if self.recorder.page is not None:
            _line(display, f"report: {self.recorder.page}")


def _line(display: Console, text: str, style: str = "") -> None:
    display.print(text, style=style, markup=False, highlight=False, soft_wrap=True)


def claim_of(item: pytest.Item, marker: pytest.Mark) -> Claim:
    """Return the claim that a test's marker makes."""
    needs = sorted({name for mark in item.iter_markers("needs") for name in mark.args})
    key, text = suite.key_of(item.nodeid), marker.args[0]
    if isinstance(item, pytest.Function) and key.startswith(suite.EACH_CASE) and hasattr(item, "callspec"):
        text = text.format(**item.callspec.params)
    return Claim(key, text, marker.kwargs["source"], tuple(needs))


def count(counted: Suite, report: pytest.TestReport) -> None:
    """Add the report of one phase of a test to a suite."""
    properties = report.user_properties
    claims = [str(value) for key, value in properties if key == "claim"]
    # The report of a worker that died while it ran a test says nothing but that.
    died = report.failed and not claims and report.when not in {"setup", "call", "teardown"}
    if not claims and not died:
        counted.dropped(report.nodeid)
        return
    if report.passed and report.when != "call":
        return
    seen = [str(value) for key, value in properties if key == "seen"] if report.when == "call" else []
    outcome, why = judged(report)
    seen += [why] if why else []
    claim = msgspec.json.decode(claims[0], type=Claim) if claims else None
    counted.ended(report.nodeid, outcome, claim, "; ".join(seen))


def judged(report: pytest.TestReport) -> tuple[str, str]:
    """Return the outcome of one phase of a test, one of suite.OUTCOMES, and why, where it is not passed."""
    known_bug: str | None = getattr(report, "wasxfail", None)
    if known_bug is not None and not report.failed:
        return "known" if report.skipped else "mended", known_bug
    if report.skipped:
        return "skipped", _why_skipped(report)
    if report.failed:
        crash = getattr(report.longrepr, "reprcrash", None)
        return "failed", (crash.message if crash is not None else str(report.longrepr)).partition("\n")[0]
    return "passed", ""


def _why_skipped(report: pytest.TestReport) -> str:
    return str(report.longrepr[2]).removeprefix("Skipped: ") if isinstance(report.longrepr, tuple) else ""
