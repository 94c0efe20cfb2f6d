# SPDX-License-Identifier: MIT
"""`mkh demo`: two kernels in one machine, their consoles side by side, then a table of claims.

A kernel whose definition does not expect it to spawn is shown alone, with the claims that it makes.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import pytest
from rich.markup import escape

from harness import claims, paths
from harness.build import Build
from harness.definition import Topology
from harness.lab import Lab
from harness.plugin.stash import READY_LAB
from harness.progress import Progress
from harness.report import suite
from harness.report.columns import Columns
from harness.vm.accel import Accel

CLAIMS = {"spawn": "starting/test_pair.py", "kho": "handover/test_handover.py"}
"""Which claims are shown of a kernel that is expected to be able to do what."""


def run(build: Build, topology: Topology, accel: Accel, options: Sequence[str], progress: Progress) -> bool:
    """Bring the kernels up, check every claim, print all of it; return whether every claim held.

    ``options`` are those of pytest that name the same kernel.
    """
    console = progress.console
    lab = Lab(build, topology, accel, progress)
    expects = build.definition.expects
    names = ["host", *(spawned.name for spawned in topology.spawned if "spawn" in expects)]
    with _shown(Columns(console, lab.machine.consoles, names)), lab:
        if "spawn" in expects:
            lab.pair()
        else:
            console.print(f"{build.definition.name} starts no further kernels: the host kernel is alone")
        files = _claims(expects)
        if not files:
            console.print("no claims: its definition expects nothing that is checked here")
            return True
        with progress.step("checking the claims"):
            reports = _check(lab, [*files, *options])
    counted = suite.Suite()
    for report in reports:
        claims.count(counted, report)
    console.print(suite.results_table(counted.results()))
    counts = suite.summarize(counted.results())
    for report in reports:
        if report.failed:
            console.print(f"[red]{escape(report.nodeid)}[/red]")
            console.print(escape(report.longreprtext), soft_wrap=True)
    good = not counts.failed and counts.passed > 0 and not any(report.failed for report in reports)
    held = "every claim held but for known bugs" if counts.known else "every claim held"
    verdict = f"[green]{held}[/green]" if good else "[red]the claims do not hold[/red]"
    told = f"{counts.passed} passed, {counts.failed} failed, {counts.known} known, {counts.skipped} skipped"
    console.print(f"{verdict}: {told}")
    return good


@contextmanager
def _shown(columns: Columns) -> Iterator[None]:
    """Print the consoles' lines as they come until the block ends."""
    stop = threading.Event()

    def show() -> None:
        columns.header()
        while not stop.wait(0.1):
            columns.show()
        columns.show(unfinished=True)

    printer = threading.Thread(target=show, name="columns")
    printer.start()
    try:
        yield
    finally:
        stop.set()
        printer.join()


class _Reports:
    """Collects the reports of a pytest run inside this process."""

    def __init__(self) -> None:
        self.reports: list[pytest.TestReport] = []

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self.reports.append(report)


class _ReadyLab:
    """Hands the running lab to the tests' fixtures."""

    def __init__(self, lab: Lab) -> None:
        self.lab = lab

    def pytest_configure(self, config: pytest.Config) -> None:
        config.stash[READY_LAB] = self.lab


def _claims(expects: Sequence[str]) -> list[str]:
    folder = paths.CHECKOUT / "tests" / "conformance"
    return [str(folder / file) for capability, file in CLAIMS.items() if capability in expects]


def _check(lab: Lab, what: Sequence[str]) -> list[pytest.TestReport]:
    collected = _Reports()
    arguments = [*what, "-s", "-o", "addopts=", "-p", "no:terminal", "-p", "no:cacheprovider"]
    status = pytest.main([*arguments, "--rootdir", str(paths.CHECKOUT)], plugins=[collected, _ReadyLab(lab)])
    if status not in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED):
        raise RuntimeError(f"pytest could not run {what}: {status!r}")
    return collected.reports
