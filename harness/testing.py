# SPDX-License-Identifier: MIT
"""`mkh test`: the suite run on a kernel, its claims listed, counted, compared with another kernel's."""

from __future__ import annotations

import os
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import msgspec
import pytest
from rich.markup import escape
from rich.table import Table

from harness import claims, interrupt, live, paths
from harness.build import Build
from harness.errors import UsageError
from harness.progress import Progress
from harness.report import folder, record, suite
from harness.report.compare import BAD, new_failures
from harness.report.suite import Summary

CONFORMANCE = paths.CHECKOUT / "tests" / "conformance"
STATUSES: Mapping[int, int] = {
    pytest.ExitCode.OK: 0,
    pytest.ExitCode.USAGE_ERROR: 2,
    pytest.ExitCode.NO_TESTS_COLLECTED: 2,
}
"""Exit statuses for pytest's; others are 1."""
BARE = {"-x", "-v", "-vv", "-q", "-s", "-l", "--lf", "--ff", "--sw", "--pdb", "--trust", "--no-oracles"}
"""Options without a value: a file behind any other may be that option's."""
SKIP, STOP = 125, 128
"""What `git bisect run` takes for a revision that cannot be judged, and for the end of the bisection."""


def run(
    build: Build,
    options: Sequence[str],
    progress: Progress,
    *,
    workers: int | None,
    retry: bool = False,
    report: Path | None = None,
    before: record.Record | Summary | None = None,
) -> tuple[int, Summary]:
    """Run the suite on a kernel, with pytest's ``options``; return the exit status and the counts.

    ``workers`` processes share the tests, by default one more than there are cores, since a test
    waits now and then; 0 runs them in this one. What pytest prints goes to stderr. With ``retry`` each claim
    that failed is tried once more by itself: one that holds then is counted as unstable, and the run is no
    success all the same. ``report`` is a folder for reports, in which the run stands beside ``before``.
    The counts are remembered for later comparisons when the whole suite ran.
    The status is 0, 1, 2 where no test was named or found, or interrupt.STATUS.
    """
    if workers is None:
        workers = len(os.sched_getaffinity(0)) + 1
    # Wherever the command is given, they are this checkout's.
    where = [str(paths.CHECKOUT / word) for word in named(options)] or [str(CONFORMANCE)]
    others = [word for word, is_test in _words(options) if not is_test]
    began = time.time()
    reporting = ["--report", str(report)] if report is not None else []
    status, summary = _pytest([*others, *reporting, *where], workers)
    for key in list(summary.failures) if retry and not interrupt.asked() else []:
        progress.console.print(f"once more, by itself: {key}", markup=False)
        _, again = _pytest([*others, str(CONFORMANCE / key)], 0)
        if again.outcomes.get(key) == "passed":
            suite.mark_unstable(summary, key)
    if report is not None and (before is not None or retry):
        _amend(report, began, summary, before)
    if (
        not interrupt.asked()
        and not summary.not_run
        and not set(options) & {"-k", "-m", "--deselect", "--ignore"}
    ):
        remember(build, summary)
    return status, summary


def _amend(report: Path, began: float, summary: Summary, before: record.Record | Summary | None) -> None:
    """Write the reports anew with what became known after the run; one that never began wrote none."""
    file = report / folder.JSON
    if not file.exists():
        return
    done = record.read(file)
    assert isinstance(done, record.Record)
    if done.started < began:
        return
    done = record.unstable(done, summary)
    if before is not None:
        done = msgspec.structs.replace(done, before=record.earlier(before))
    folder.write(report, done)


def _pytest(words: Sequence[str], workers: int) -> tuple[int, Summary]:
    """Run pytest; return its exit status, and the counts of claims (none, when it did not get that far)."""
    with tempfile.TemporaryDirectory(prefix="mkharness-") as folder:
        file = Path(folder) / "claims.json"
        command = ["--rootdir", str(paths.CHECKOUT), "--claims", str(file), *words]
        if workers:
            command += ["-n", str(workers), "--dist", "worksteal"]
        if live.wanted(words):
            with live.shown() as plugins:
                ended = int(pytest.main(command, plugins=plugins))
        else:
            with _stdout_to_stderr():
                ended = int(pytest.main(command))
        status = interrupt.STATUS if interrupt.asked() else STATUSES.get(ended, 1)
        if not file.exists():
            return status or 1, Summary()
        return status, msgspec.json.decode(file.read_bytes(), type=Summary)


def bisect_status(status: int, summary: Summary) -> int:
    """Return what `git bisect run` is to know: 0 good, 1 bad, 125 cannot be judged, above 127 stop."""
    if status == interrupt.STATUS:
        return status
    if status == 2:
        return STOP
    if summary.failed + summary.unstable:
        return 1
    return status if summary.passed + summary.known else SKIP


def named(words: Sequence[str]) -> list[str]:
    """Return the words of a command line that name tests of the suite."""
    return [word for word, is_test in _words(words) if is_test]


def require_tests(words: Sequence[str]) -> None:
    """Raise UsageError where the command line names a file of tests that is none of the suite's."""
    for option, (word, is_test) in zip(("", *words), _words(words), strict=False):
        file = word.partition("::")[0]
        if file.endswith(".py") and not is_test and (option in BARE or not option.startswith("-")):
            raise UsageError(
                f"{file} is not in tests/conformance, which is what `mkh test` judges by",
                advice=f"run it by itself: .venv/bin/pytest {word}",
            )


def _words(words: Sequence[str]) -> Iterator[tuple[str, bool]]:
    """Yield the words of a command line, and whether each names tests: some options have paths, too."""
    for option, word in zip(("", *words), words, strict=False):
        place = paths.CHECKOUT / word.partition("::")[0]
        yield word, option not in {"--deselect", "--ignore"} and place.is_relative_to(CONFORMANCE)


@contextmanager
def _stdout_to_stderr() -> Iterator[None]:
    """Keep standard output for the answer, whatever pytest and its workers print."""
    sys.stdout.flush()
    kept = os.dup(1)
    os.dup2(2, 1)
    try:
        yield
    finally:
        sys.stdout.flush()
        os.dup2(kept, 1)
        os.close(kept)


def collect(kernel: str) -> tuple[suite.Claim, ...]:
    """Return the claims of the suite, without running or building anything."""

    class Collected:
        found: Sequence[suite.Claim] = ()

        def pytest_collection_finish(self, session: pytest.Session) -> None:
            markers = ((item, item.get_closest_marker("claim")) for item in session.items)
            found = {claims.claim_of(item, marker) for item, marker in markers if marker is not None}
            self.found = sorted(found, key=lambda claim: claim.key)

    collected = Collected()
    options = ["--collect-only", "-o", "addopts=", "-p", "no:terminal", "--rootdir", str(paths.CHECKOUT)]
    status = pytest.main([*options, "--kernel", kernel, str(CONFORMANCE)], plugins=[collected])
    if status is not pytest.ExitCode.OK:
        raise UsageError(
            "the suite cannot be collected", advice="run pytest --collect-only tests/conformance"
        )
    return tuple(collected.found)


def _runs() -> Path:
    return paths.cache() / "runs"


def remember(build: Build, summary: Summary) -> None:
    """Keep a build's counts for later comparisons, in place of older ones."""
    _runs().mkdir(parents=True, exist_ok=True)
    file = _runs() / f"{build.digest}.json"
    temporary = file.with_suffix(f".{os.getpid()}")
    temporary.write_bytes(msgspec.json.encode(summary))
    temporary.rename(file)


def recall(name: str) -> record.Record | Summary | None:
    """Return an earlier run: report.json, what `mkh test --json` wrote, a build's digest or its beginning.

    None when ``name`` is neither. Raises UsageError when it names several builds, or a file that is no run.
    """
    found = [Path(name)] if Path(name).is_file() else []
    if not found and len(name) >= 6:
        found = [file for file in _runs().glob("*.json") if file.name.startswith(name)]
    if len(found) > 1:
        raise UsageError(f"{name} names {len(found)} runs", advice="give more of the digest")
    if not found:
        return None
    return record.read(found[0])


def comparison(now: Summary, before: Summary) -> Table:
    """Return the claims of this run that ended otherwise than before: new failures first."""
    table = Table(title=f"against {before.kernel} {before.build[:12]}", title_justify="left")
    for name in ("claim", "before", "now", "why"):
        table.add_column(name)
    new = new_failures(now.outcomes, before.outcomes)
    others = [key for key in now.outcomes if key not in new]
    for key in (*new, *others):
        was, is_ = before.outcomes.get(key, "(none)"), now.outcomes[key]
        if key in new or was != is_:
            style = "bold red" if key in new else "green" if was in BAD else ""
            table.add_row(key, was, is_, escape(now.failures.get(key, "")), style=style)
    return table
