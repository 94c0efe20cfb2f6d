# SPDX-License-Identifier: MIT
"""The view of a run in a terminal: what runs now, counts by area, failures as they come.

It is there where standard error is a terminal that can move its cursor; elsewhere pytest's own lines
are. What pytest prints meanwhile is kept, and shown where it did not get as far as a test.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console, ConsoleDimensions, Group, RenderableType
from rich.live import Live
from rich.markup import escape
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from harness import claims, doing
from harness.report import suite

PACE = 4
"""Pictures a second."""
WORDS = {"passed": "green", "failed": "bold red", "known": "yellow", "skipped": "cyan"}
TEXT = 12_000
"""Characters of a failure's text that are shown at the end."""
PLAIN = {"-s", "-v", "-vv", "--pdb", "--trace", "--coverage", "--collect-only", "--pause-on-fail"}
"""Options for whom pytest's own output is what is asked for."""


def wanted(words: Sequence[str]) -> bool:
    """Say whether a run with these options is to be shown so."""
    return sys.stderr.isatty() and os.environ.get("TERM", "dumb") != "dumb" and not PLAIN & set(words)


class View:
    """Pytest's plugin that draws on ``display``; ``folder`` is where processes tell what they do."""

    def __init__(self, display: Console, folder: Path) -> None:
        self.display = display
        self.folder = folder
        self.began = time.monotonic()
        self.total = 0
        self.areas: dict[str, Counter[str]] = {}
        self.failures: list[tuple[pytest.TestReport, str]] = []
        self._running: dict[str, float] = {}
        self._phase: dict[str, str] = {}
        self.config: pytest.Config | None = None
        self.claims: claims.Claims | None = None

    def pytest_configure(self, config: pytest.Config) -> None:
        """Remember whose run it is."""
        self.config = config

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        """Count the tests of a run in one process."""
        self.total = len(session.items)

    @pytest.hookimpl(optionalhook=True)
    def pytest_xdist_node_collection_finished(self, ids: Sequence[str]) -> None:
        """Count the tests of a run in several."""
        self.total = len(ids)

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        """Note that a test runs."""
        self._running[nodeid] = time.monotonic()

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Note what became of a phase of a test; show a failure at once."""
        outcome, why = claims.judged(report)
        if outcome == "failed":
            self.failures.append((report, why))
            self.display.print(
                f"[bold red]failed[/] {escape(_name(report.nodeid))}\n       {escape(why[:300])}",
                highlight=False,
            )
        before = self._phase.get(report.nodeid, "passed")
        if before == "passed" or outcome == "failed":
            self._phase[report.nodeid] = outcome
        if report.when == "teardown" or (outcome == "failed" and report.when not in {"setup", "call"}):
            self._running.pop(report.nodeid, None)
            self._count(report.nodeid)

    def _count(self, test: str) -> None:
        area = suite.key_of(test).partition("/")[0]
        self.areas.setdefault(area, Counter())[self._phase.pop(test, "passed")] += 1

    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        """Keep the counts before they are gone."""
        self.claims = session.config.pluginmanager.get_plugin(claims.NAME)

    def __rich__(self) -> RenderableType:
        """Draw what runs, and the counts so far."""
        size = os.get_terminal_size(self.display.file.fileno())
        self.display.size = ConsoleDimensions(size.columns, size.lines)
        now = {one.test: one for one in doing.read(self.folder) if one.test}
        running = Table.grid(padding=(0, 1), expand=True)
        running.add_column(justify="right", style="dim", width=6)
        running.add_column(ratio=1, overflow="ellipsis", no_wrap=True)
        lines = 0
        for test, since in list(self._running.items()):
            one = now.get(test, doing.Doing(test))
            name = Text(_name(test))
            rows = [(f"{time.monotonic() - since:.0f} s", name)]
            name.append(f"  {one.step}", "dim")
            rows += [
                ("", Text.assemble("  ", (f"{kernel:8}", "cyan"), " ", (line, "dim")))
                for kernel, line in one.kernels.items()
            ]
            if lines + len(rows) > size.lines - 6:
                break
            lines += len(rows)
            for row in rows:
                running.add_row(*row)
        return Group(Text(), running, Padding(self._counts(), (0, 0, 0, 1)))

    def _counts(self) -> Text:
        done: Counter[str] = sum(self.areas.values(), Counter())
        elapsed = int(time.monotonic() - self.began)
        text = Text()
        text.append(f"{done.total()} of {self.total or '?'} tests", "bold")
        text.append(f", {elapsed // 60}:{elapsed % 60:02}")
        for name, style in WORDS.items():
            if done[name]:
                text.append(f", {done[name]} {name}", style)
        for area, counts in sorted(self.areas.items()):
            text.append("\n" if area == min(self.areas) else "  ")
            text.append(f"{area} ", "red" if counts["failed"] else "")
            text.append(str(counts.total()), "bold red" if counts["failed"] else "green")
        return text

    def summary(self) -> None:
        """Print the run's end: failures first, then the areas."""
        for report, why in self.failures:
            self.display.rule(Text(f"failed: {_name(report.nodeid)}", "bold red"), style="red")
            text = report.longreprtext.strip() or why
            sections = [f"{name}:\n{said.strip()}" for name, said in report.sections if said.strip()]
            for part in (text, *sections):
                self.display.print(_clipped(part), markup=False, highlight=False, soft_wrap=True)
        if self.claims is not None:
            self.claims.tell(self.display)


def _clipped(text: str) -> str:
    return text if len(text) <= TEXT else f"[... {len(text) - TEXT:,} characters before ...]\n{text[-TEXT:]}"


@contextmanager
def shown() -> Iterator[list[Any]]:
    """Have the run inside shown; yield the plugins that pytest needs for that.

    Standard output and standard error are files of our own meanwhile: workers write there, too.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    terminal, kept = os.dup(2), os.dup(1)
    with (
        tempfile.TemporaryDirectory(prefix="mkharness-live-") as folder,
        tempfile.TemporaryFile() as said,
        os.fdopen(terminal, "w", encoding="utf-8", errors="replace") as out,
    ):
        size = os.get_terminal_size(terminal)
        display = Console(
            file=out, force_terminal=True, highlight=False, width=size.columns, height=size.lines
        )
        view = View(display, Path(folder))
        os.environ[doing.VARIABLE] = folder
        try:
            os.dup2(said.fileno(), 1)
            os.dup2(said.fileno(), 2)
            live = Live(
                view,
                console=view.display,
                refresh_per_second=PACE,
                transient=True,
                redirect_stdout=False,
                redirect_stderr=False,
            )
            with live:
                yield [view]
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os.dup2(kept, 1)
            os.dup2(terminal, 2)
            os.close(kept)
            os.environ.pop(doing.VARIABLE, None)
        if view.claims is None or not view.total:
            said.seek(0)
            out.write(said.read().decode("utf-8", "replace"))
        else:
            view.summary()


def _name(test: str) -> str:
    return test.removeprefix(suite.FOLDER)
