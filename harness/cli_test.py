# SPDX-License-Identifier: MIT
"""`mkh test`, `coverage`, `runs`: a kernel judged, and what is known of earlier runs."""

from __future__ import annotations

import sys
from datetime import datetime
from pathlib import Path
from typing import Annotated

import msgspec
from cyclopts import Parameter

from harness.cli_options import CHOSEN, AccelName, BaseText, Chosen, Kernel, Series, TopologyName, build_of
from harness.progress import Progress


def judge(
    *arguments: Annotated[
        str, Parameter(allow_leading_hyphen=True, help="Passed on to pytest: -k, -x, files.")
    ],
    chosen: Chosen = CHOSEN,
    topology: TopologyName = None,
    accel: AccelName = "auto",
    listing: Annotated[bool, Parameter("--list", negative="", help="List the claims; run nothing.")] = False,
    against: Annotated[
        str | None,
        Parameter(
            help="Compare with another kernel definition, an earlier build's digest, a report.json"
            " or a --json file."
        ),
    ] = None,
    workers: Annotated[
        int | None,
        Parameter(["--workers", "-n"], help="Processes that share the tests; one more than cores, else."),
    ] = None,
    coverage: Annotated[
        Path | None,
        Parameter(help="Count into this folder which lines of the series are executed; for NAME+gcov."),
    ] = None,
    retry: Annotated[
        bool,
        Parameter(
            negative="", help="Try what failed once more by itself; what holds then is unstable, no success."
        ),
    ] = False,
    bisect: Annotated[
        bool,
        Parameter(
            negative="",
            help="Exit as `git bisect run` understands: 0 good, 1 bad, 125 cannot be judged, 128 stop.",
        ),
    ] = False,
    pause_on_fail: Annotated[
        bool,
        Parameter(
            negative="",
            help="Keep the machine of a test that fails, tell how to attach, wait; tests run in one process.",
        ),
    ] = False,
    report: Annotated[
        Path | None,
        Parameter(
            help="Write report.html, junit.xml, results.ktap, kcidb.json, report.json into this folder."
        ),
    ] = None,
    json: Annotated[
        bool, Parameter(help="End with one JSON object of the counts; with --list, one list.")
    ] = False,
) -> int:
    """Judge a kernel by the conformance suite; exit status 0 only when every claim held.

    Exit status: 0 when every claim held (with --against: when none fails that did not before), 1 when
    one failed or was not run, 2 when the question makes no sense, 130 when interrupted: then what
    was counted so far is told, and the rest is "not run".

    For example:

        mkh test --kernel rfc-v1 --series FOLDER -k messages

        mkh test --kernel rfc-v2 --series NEW --against earlier.json

        git bisect run mkh test --bisect --base .@HEAD -k spawn
    """
    from harness import interrupt, testing
    from harness.errors import UsageError
    from harness.report import suite
    from harness.report.compare import new_failures
    from harness.report.record import Record

    progress = Progress()
    testing.require_tests(arguments)
    if listing:
        found = testing.collect(chosen.kernel)
        if json:
            print(msgspec.json.encode(found).decode())
            return 0
        progress.console.print(suite.claims_list(found), soft_wrap=False)
        print(f"{len(found)} claims")
        return 0
    if coverage is not None:
        _require_counters(chosen.kernel, chosen.bzimage)
    if report is not None and report.exists() and not report.is_dir():
        raise UsageError(f"--report {report} is no folder", advice="name another, or one to be made")
    if pause_on_fail:
        workers, arguments = _in_one_process(workers, progress), ("--pause-on-fail", *arguments)
    earlier = testing.recall(against) if against else None
    built = chosen.build(progress)
    common = ["--accel", accel, *(["--topology", topology] if topology else []), *arguments]
    if against and earlier is None:
        other = build_of(against, None, None, progress)
        status, earlier = testing.run(other, ["--kernel", against, *common], progress, workers=workers)
        if interrupt.asked():
            return status
    options = chosen.words(built)
    options += ["--coverage", str(coverage.absolute())] if coverage is not None else []
    status, now = testing.run(
        built,
        [*options, *common],
        progress,
        workers=workers,
        retry=retry,
        report=report.absolute() if report is not None else None,
        before=earlier,
    )
    unstable = [key for key, outcome in now.outcomes.items() if outcome == "unstable"]
    if unstable:
        progress.console.print(
            f"unstable, for they failed and then held: {', '.join(unstable)}", markup=False
        )
    if earlier is not None and not interrupt.asked():
        before = earlier.summary if isinstance(earlier, Record) else earlier
        progress.console.print(testing.comparison(now, before))
        new = new_failures(now.outcomes, before.outcomes)
        progress.console.print(f"{len(new)} new failures")
        status = 1 if new or now.not_run else 0
    if json:
        print(msgspec.json.encode(now).decode())
    return testing.bisect_status(status, now) if bisect else status


def _in_one_process(workers: int | None, progress: Progress) -> int:
    from harness.errors import UsageError

    if workers:
        raise UsageError(
            f"--pause-on-fail runs the tests in one process, not in {workers}", advice="leave -n out"
        )
    progress.console.print(
        "--pause-on-fail: the tests run in one process, so that a failure can wait for you"
    )
    return 0


def _require_counters(kernel: str, bzimage: Path | None) -> None:
    from harness import coverage
    from harness.definition import load_definition
    from harness.errors import UsageError

    if bzimage is not None:
        raise UsageError("--coverage needs a kernel that was built here", advice=coverage.ADVICE)
    coverage.require(load_definition(kernel))


def coverage(
    folder: Annotated[Path, Parameter(help="What tests counted into.")],
    /,
    *,
    lines: Annotated[bool, Parameter(negative="", help="Show the lines that were not executed.")] = False,
    json: Annotated[bool, Parameter(help="Print one JSON object.")] = False,
) -> int:
    """Show which lines of the series tests executed that ran with --coverage FOLDER.

    For example:

        mkh test --kernel reference+gcov --coverage FOLDER

        mkh coverage FOLDER --lines
    """
    from rich.console import Console as Display

    from harness import coverage
    from harness.report import coverage as report

    found = coverage.read(folder)
    if json:
        print(report.json(found))
        return 0
    Display(width=None if sys.stdout.isatty() else 160).print(report.table(found))
    for line in (*report.notes(found), *(report.lines(found, folder) if lines else ())):
        print(line)
    return 0


def runs(
    *,
    kernel: Kernel = "reference",
    series: Series = None,
    base: BaseText = None,
    gaps: Annotated[
        bool,
        Parameter(
            negative="", help="How long other kernels stood still at each fault and replacement instead."
        ),
    ] = False,
    since: Annotated[
        datetime | None, Parameter(help="Only what ended after this moment, like 2026-11-23T13:35.")
    ] = None,
    all: Annotated[
        bool, Parameter(negative="", help="Runs of earlier tests, too, not only of those here.")
    ] = False,
    carry: Annotated[
        Path | None,
        Parameter(
            help="Folder that carries runs (with --gaps, gaps of quiet times) from computer to computer:"
            " take its, leave ours."
        ),
    ] = None,
) -> int:
    """Show how often each area of the suite was run on a build, and how often it failed.

    For example:

        mkh runs --gaps
    """
    from rich.console import Console as Display

    from harness.report import gaps as report
    from harness.report import history

    built = build_of(kernel, series, base, Progress())
    display = Display(width=None if sys.stdout.isatty() else 160)
    if carry is not None:
        gained = report.carry(built.digest, carry) if gaps else history.carry(built.digest, carry)
        print(f"{carry}: {gained} lines more", file=sys.stderr)
    begin = since.timestamp() if since else 0.0
    if gaps:
        display.print(report.table([one for one in report.read(built.digest) if one.at >= begin]))
        return 0
    found = [run for run in history.read(built.digest) if run.ended >= begin]
    display.print(history.table(found, all=all))
    return 1 if history.failed_now(found) else 0
