# SPDX-License-Identifier: MIT
"""A whole run: what it needs before its first test, its workers, its end."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from harness.plugin.claims import claims_of


def pytest_configure(config: pytest.Config) -> None:
    """Declare the markers; refuse to count what has no counters."""
    config.addinivalue_line("markers", "claim(text, source): the statement that the test checks")
    config.addinivalue_line("markers", "trespass(why): a kernel leaves its own memory or CPUs in this test")
    config.addinivalue_line("markers", "needs(*capabilities): what the kernel must be able to do")
    runs_tests = hasattr(config, "workerinput") or not config.getoption("numprocesses", None)
    if "MKHARNESS_LIVE" in os.environ and runs_tests:
        from harness.doing import VARIABLE, Teller

        config.pluginmanager.register(Teller(Path(os.environ[VARIABLE])))
    if config.getoption("--pause-on-fail"):
        from harness import pause

        pause.configure(config)
    if config.getoption("--coverage"):
        _configure_coverage(config)
    if config.getoption("--report"):
        _configure_report(config)


def _configure_report(config: pytest.Config) -> None:
    from harness.errors import UsageError

    try:
        claims_of(config).recorder.configure()
    except UsageError as error:
        raise pytest.UsageError(str(error)) from None


def _configure_coverage(config: pytest.Config) -> None:
    from harness import coverage
    from harness.definition import load_definition
    from harness.errors import UsageError

    # Workers have another folder to start from.
    config.option.coverage = str(config.invocation_params.dir / config.getoption("--coverage"))
    try:
        if config.getoption("--bzimage"):
            raise UsageError("--coverage needs a kernel that was built here", advice=coverage.ADVICE)
        coverage.require(load_definition(config.getoption("--kernel")))
    except UsageError as error:
        raise pytest.UsageError(str(error)) from None


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    """Count claims and machines in the process that hands tests out to workers."""
    from harness import interrupt
    from harness.machines import NAME, Machines

    interrupt.know_worker(node)
    claims_of(node.config)
    if not node.config.pluginmanager.has_plugin(NAME):
        node.config.pluginmanager.register(Machines(node.config), NAME)


def pytest_keyboard_interrupt(excinfo: pytest.ExceptionInfo[BaseException]) -> None:
    """Let a Ctrl-C stop the workers at once; pytest's own interruptions (-x) are of other types."""
    from harness import interrupt

    if excinfo.type is KeyboardInterrupt:
        interrupt.kill_workers()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Print which lines of the series were executed, when that was counted."""
    folder = config.getoption("--coverage")
    if not folder or not Path(folder).is_dir() or config.getoption("--collect-only"):
        return
    from rich.console import Console

    from harness import coverage
    from harness.report import coverage as report

    terminalreporter.section("coverage")
    found = coverage.read(Path(folder))
    width = None if terminalreporter.isatty else 160
    Console(file=terminalreporter._tw._file, width=width).print(report.table(found))
    for line in report.notes(found):
        terminalreporter.write_line(line)
