# SPDX-License-Identifier: MIT
"""How many machines a pytest run booted and forked, in all its processes.

Registered by harness.plugin as soon as a run has machines, or hands tests out to workers.
"""

from __future__ import annotations

import os
from collections import Counter
from typing import Any

import pytest

from harness.forks import Forks

NAME = "mkharness-machines"
TOLD = "mkharness_machines"
COUNTED = ("booted", "forked", "failed")


class Machines:
    """Counts a run's machines; the counts are written below the tests."""

    def __init__(self, config: pytest.Config, forks: Forks | None = None) -> None:
        self.config = config
        self.forks = forks
        self.elsewhere: Counter[str] = Counter()

    def counts(self) -> Counter[str]:
        """Return this process' counts and its workers'."""
        own = {name: getattr(self.forks, name) for name in COUNTED} if self.forks else {}
        return self.elsewhere + Counter(own)

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, node: Any) -> None:
        """Take what a worker counted."""
        self.elsewhere.update(getattr(node, "workeroutput", {}).get(TOLD, {}))

    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        """Let no run of CI succeed in which a fork failed, whoever took the error; tell the other process."""
        output = getattr(self.config, "workeroutput", None)
        if output is not None:
            output[TOLD] = dict(self.counts())
        elif self._refused and session.exitstatus == pytest.ExitCode.OK:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    @property
    def _refused(self) -> bool:
        return os.environ.get("CI") == "true" and self.counts()["failed"] > 0

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """Print the counts."""
        count = self.counts()
        if not count:
            return
        terminalreporter.write_line(
            f"machines: {count['booted']} booted, {count['forked']} forked,"
            f" {count['failed']} forks failed to resume",
            red=count["failed"] > 0,
        )
        if self._refused:
            terminalreporter.write_line("no success: in CI every fork has to resume", red=True)
