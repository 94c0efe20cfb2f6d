# SPDX-License-Identifier: MIT
"""`mkh reproduce`: a failure as text to mail."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

if TYPE_CHECKING:
    from harness.failure import Failure


def reproduce(
    run: Annotated[
        str, Parameter(help="A kept failure's name or a part of it, `last`, or a run's report.json.")
    ] = "last",
    /,
    *,
    test: Annotated[
        str | None, Parameter(help="Which failure of report.json: a part of the test's name.")
    ] = None,
    script: Annotated[
        bool, Parameter(negative="", help="Only the script that repeats it without mkharness.")
    ] = False,
    listing: Annotated[bool, Parameter("--list", negative="", help="List the kept failures.")] = False,
) -> int:
    """Print a failure as plain text for a mailing list: what fails, on what, and how to see it oneself.

    Below 100 KB, 76 columns: the claim, kernel and series, the commands with mkharness, and a script that
    does the same without it (QEMU, shell, C); then the consoles.

    For example:

        mkh reproduce last > report.txt

        mkh reproduce out/report.json --test test_stops
    """
    from harness import failure
    from harness.report import reproduce as report

    if listing:
        for one in reversed(failure.all()):
            print(f"{one.name}  {one.why[:100]}")
        return 0
    found = _in_report(Path(run), test) if run.endswith(".json") else failure.find(run)
    sys.stdout.write(report.script(found) if script else report.text(found))
    return 0


def _in_report(file: Path, test: str | None) -> Failure:
    from harness.errors import UsageError
    from harness.report import kept, record

    run = record.read(file)
    failed = [case for case in run.cases if case.bad] if isinstance(run, record.Record) else []
    hits = [case for case in failed if test is None or test in case.test]
    if len(hits) != 1:
        raise UsageError(
            f"{file} has {len(hits)} failures{f' with {test!r}' if test else ''}",
            details="\n".join(case.test for case in (hits or failed)[:20]),
            advice="name one: --test WORDS" if failed else "only a failure can be repeated",
        )
    assert isinstance(run, record.Record)
    return kept.failure_of(run, hits[0])
