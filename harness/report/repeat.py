# SPDX-License-Identifier: MIT
"""The command that repeats one test on the very build of a run."""

from __future__ import annotations

import shlex
from collections.abc import Sequence

from harness.report.record import Case, Record


def repeat(record: Record, case: Case) -> str:
    """Return it, for a shell in the checkout; it runs on no other build than the record's."""
    return command(case.test, record.options, record.facts.digest)


def command(test: str, options: Sequence[str], digest: str) -> str:
    """Return the command that runs a test with these options, on the build of this digest if it has one."""
    build = ["--build", digest] if digest else []
    return shlex.join([".venv/bin/pytest", test, *options, *build])
