# SPDX-License-Identifier: MIT
"""`--pause-on-fail`: a test that fails leaves its machine to a person before it is torn down.

Registered by harness.plugin when the option is given. The machine is stopped as soon as the failure is
known, so that it is seen as it was then.
"""

from __future__ import annotations

import re
from collections.abc import Generator, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import pytest

from harness.errors import HarnessError
from harness.lab import Lab
from harness.plugin.stash import LAB
from harness.vm.state import State

NAME = "mkharness-pause"
ONE_PROCESS = "--pause-on-fail needs the tests in one process: leave -n out, or give -n 0"


def configure(config: pytest.Config) -> None:
    """Refuse to pause in workers, which have no terminal; else pause from now on."""
    if config.getoption("numprocesses", None) or config.getoption("dist", "no") != "no":
        raise pytest.UsageError(ONE_PROCESS)
    config.pluginmanager.register(Pausing(config), NAME)


@contextmanager
def torn_down(item: pytest.Item, lab: Lab) -> Iterator[None]:
    """Pause, where that is wanted, for what is found out about a machine after its test."""
    try:
        yield
    except Exception as error:
        pausing = item.config.pluginmanager.get_plugin(NAME)
        if pausing is not None:
            pausing.pause(item, lab, f"{type(error).__name__}: {error}")
        raise


class Pausing:
    """Pauses at the failures of tests with a machine; once for each test."""

    def __init__(self, config: pytest.Config) -> None:
        self._capture: Any = config.pluginmanager.get_plugin("capturemanager")
        self._paused: str = ""

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(
        self, item: pytest.Item, call: pytest.CallInfo[None]
    ) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        """Pause when a test, or what it needs, has failed: its machine is there until it is torn down."""
        report = yield
        lab = item.stash.get(LAB, None)
        if report.failed and call.when != "teardown" and lab is not None:
            sections = (
                f"{title}:\n{text}"
                for title, text in report.sections
                if not title.startswith(("Captured", "console of"))
            )
            self.pause(item, lab, "\n".join([report.longreprtext, *sections]))
        return report

    def pause(self, item: pytest.Item, lab: Lab, why: str) -> None:
        """Stop the machine, tell why the test failed, and wait for a person."""
        if self._paused == item.nodeid:
            return
        self._paused = item.nodeid
        # One that has ended is looked at as it is.
        with suppress(HarnessError):
            if lab.machine.state is State.LIVE:
                lab.machine.freeze()
        with self._uncaptured():
            from harness.tui import waiting
            from harness.tui.source import LabSource

            print(f"\n{'=' * 20} {item.nodeid} failed {'=' * 20}\n{why}")
            try:
                decision = waiting.for_test(LabSource(lab, item.name), name_of(item.name))
            except HarnessError as error:
                print(f"it cannot be paused: {error}")
                return
        # The tear-down goes on as if nothing had been.
        with suppress(HarnessError):
            if lab.machine.state is State.FROZEN:
                lab.machine.thaw()
        if decision == "end":
            item.session.shouldstop = "ended at a paused failure"

    @contextmanager
    def _uncaptured(self) -> Iterator[None]:
        capture = self._capture
        if capture is None:
            yield
            return
        # Between a test's phases pytest has suspended it already, and resumes it by itself.
        started = capture.is_globally_capturing() and capture._global_capturing.is_started()
        capture.suspend(in_=True)
        try:
            yield
        finally:
            if started:
                capture.resume()


def name_of(test: str) -> str:
    """Return what a test's machine is served as: letters that need no quotes, not too many."""
    return re.sub(r"[^A-Za-z0-9_]+", "-", test).strip("-")[:50] or "test"
