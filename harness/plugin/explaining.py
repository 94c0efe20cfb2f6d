# SPDX-License-Identifier: MIT
"""A failing test's machine is asked why, and the failure is shown without the harness' own code."""

from __future__ import annotations

import contextlib
from collections.abc import Generator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import _pytest
import pluggy
import pytest

from harness.plugin.stash import EXPLAINED, ITEM, LAB

if TYPE_CHECKING:
    from harness.lab import Lab

CONSOLE_TAIL = "The last lines of "
"""How an error's details begin that are the end of a console."""


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, Any, Any]:
    """Forget a test's machine when the test is over: pytest keeps its items, and what they hold."""
    item.config.stash[ITEM] = item
    try:
        return (yield)
    finally:
        if LAB in item.stash:
            del item.stash[LAB]
        if EXPLAINED in item.stash:
            del item.stash[EXPLAINED]


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Explain a failure of a test with a machine, which is still there, beside it."""
    error = call.excinfo.value if call.excinfo is not None else None
    lab = item.stash.get(LAB, None)
    # What the tear-down raised was explained in it, before the machine ended.
    no_failure = (pytest.skip.Exception, pytest.exit.Exception, KeyboardInterrupt)
    if (
        lab is not None
        and call.when != "teardown"
        and error is not None
        and not isinstance(error, no_failure)
    ):
        explain_failure(item, lab, call.when, error)
    explanation = item.stash.get(EXPLAINED, None)
    bare = call.excinfo is not None and _shorten(item, call.excinfo, explained=explanation is not None)
    report = yield
    if bare and report.failed:
        report.longrepr = str(error)
    if not report.failed or error is None:
        return report
    if explanation is not None and explanation.sections:
        report.sections += explanation.sections
        # Another phase may fail, too, of the same machine.
        explanation.sections = []
    if lab is not None and item.config.getoption("--report"):
        from harness.recorder import consoles_of, stretches

        report.user_properties.append(("consoles", consoles_of(lab)))
        if explanation is not None and explanation.map:
            report.user_properties.append(("failed map", stretches(explanation.map)))
    return report


def explain_failure(item: pytest.Item, lab: Lab, phase: str, error: BaseException) -> None:
    """Find out what can be of a failing test's machine, once, unless it fails as it is known to."""
    if EXPLAINED in item.stash or item.get_closest_marker("xfail"):
        return
    from harness.diagnose.explain import Explanation, explain
    from harness.diagnose.told import told_of

    try:
        item.stash[EXPLAINED] = explain(lab, told_of(item, phase, error))
    except Exception as failed:
        # Whatever is wrong with the explanation, the failure itself is to be seen.
        item.stash[EXPLAINED] = Explanation([("what happened", f"not known: {failed!r}")])


def _shorten(item: pytest.Item, caught: pytest.ExceptionInfo[BaseException], *, explained: bool) -> bool:
    """Leave out of an error of mkharness' its own code, and the consoles where they are shown anyway.

    Returns whether no code is left: the test's was not running.
    """
    from harness.errors import HarnessError

    option, error = item.config.getoption, caught.value
    with_machine = LAB in item.stash or item.get_closest_marker("claim") is not None
    if not isinstance(error, HarnessError) or option("fulltrace") or option("usepdb") or not with_machine:
        return False
    if explained and error.details.startswith(CONSOLE_TAIL):
        error.details = ""
    hidden = (f"{Path(__file__).parents[1]}/", contextlib.__file__, pluggy.__path__[0], _pytest.__path__[0])
    # pytest goes back to these whatever was filtered.
    kept, entry = caught.tb, caught.tb.tb_next
    while entry is not None:
        if not entry.tb_frame.f_code.co_filename.startswith(hidden):
            kept.tb_next = entry
            kept = entry
        entry = entry.tb_next
    kept.tb_next = None
    return kept is caught.tb
