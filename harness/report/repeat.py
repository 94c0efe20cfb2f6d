# SPDX-License-Identifier: MIT
"""The command that repeats one test on the very build of a run."""

from __future__ import annotations

import shlex

from harness.report.record import Case, Record


def repeat(record: Record, case: Case) -> str:
    """Return it, for a shell in the checkout; it runs on no other build than the record's."""
    options = list(record.options)
    if record.facts.digest:
        options += ["--build", record.facts.digest]
    return shlex.join([".venv/bin/pytest", case.test, *options])
