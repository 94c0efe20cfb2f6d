# SPDX-License-Identifier: MIT
"""`mkh test`: the suite run on a kernel, its claims listed, counted, compared with another kernel's."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import msgspec
import pytest
from rich.markup import escape
from rich.table import Table

from harness import claims, paths
from harness.build import Build
from harness.errors import UsageError
from harness.progress import Progress
from harness.report import suite
from harness.report.suite import Summary

CONFORMANCE = paths.CHECKOUT / "tests" / "conformance"
BAD = {"failed", "not_run"}


def run(
    build: Build, options: Sequence[str], progress: Progress, *, workers: int | None
) -> tuple[int, Summary]:
    """Run the suite on a kernel, with pytest's ``options``; return the exit status and the counts.

    ``workers`` processes share the tests, by default one more than there are cores, since a test
    waits now and then; 0 runs them in this one. What pytest prints goes to stderr. The counts are
    remembered for later comparisons when the whole suite ran.
    """
    if workers is None:
        workers = len(os.sched_getaffinity(0)) + 1
    with tempfile.TemporaryDirectory(prefix="mkharness-") as folder:
        file = Path(folder) / "claims.json"
        command = ["--rootdir", str(paths.CHECKOUT), "--claims", str(file), *options]
        if workers:
            command += ["-n", str(workers), "--dist", "worksteal"]
        if not names_tests(options):
            command.append(str(CONFORMANCE))
        with _stdout_to_stderr():
            status = int(pytest.main(command))
        if not file.exists():
            # pytest's own status for a usage error is 4.
            return 2 if status == pytest.ExitCode.USAGE_ERROR else status or 1, Summary()
        summary = msgspec.json.decode(file.read_bytes(), type=Summary)
    if not summary.not_run and not set(options) & {"-k", "-m", "--deselect", "--ignore"}:
        remember(build, summary)
    return status, summary


def names_tests(words: Sequence[str]) -> bool:
    """Say whether the command line names tests of the suite; the values of some options are paths as well."""
    before = ("", *words)
    return any(
        (paths.CHECKOUT / word.partition("::")[0]).is_relative_to(CONFORMANCE)
        for option, word in zip(before, words, strict=False)
        if option not in {"--deselect", "--ignore"}
    )


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


def recall(name: str) -> Summary | None:
    """Return an earlier run: a file that `mkh test --json` wrote, or a build's digest or its beginning.

    None when ``name`` is neither. Raises UsageError when it names several builds, or a file that is no run.
    """
    found = [Path(name)] if Path(name).is_file() else []
    if not found and len(name) >= 6:
        found = [file for file in _runs().glob("*.json") if file.name.startswith(name)]
    if len(found) > 1:
        raise UsageError(f"{name} names {len(found)} runs", advice="give more of the digest")
    if not found:
        return None
    try:
        return msgspec.json.decode(found[0].read_bytes(), type=Summary)
    except (OSError, msgspec.MsgspecError) as error:
        raise UsageError(
            f"{found[0]} is no run of the suite: {error}", advice="give what `mkh test --json` printed"
        ) from None


def new_failures(now: Mapping[str, str], before: Mapping[str, str]) -> list[str]:
    """Return the claims that fail now and did not before, one that was not there before included."""
    return [key for key, outcome in now.items() if outcome in BAD and before.get(key) not in BAD]


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
