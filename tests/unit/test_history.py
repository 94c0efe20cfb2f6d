# SPDX-License-Identifier: MIT
"""Runs of the suite are kept, line by line, and counted."""

from __future__ import annotations

import os
from concurrent.futures import ProcessPoolExecutor
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

from harness import paths
from harness.errors import UsageError
from harness.report import history
from harness.report.suite import Counts, Summary, Watched


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MKHARNESS_CACHE", str(tmp_path))
    return tmp_path


def summary(*, failed: int = 0, claims: int = 3, build: str = "abc") -> Summary:
    counts = Counts(claims=claims, passed=claims - failed, failed=failed)
    failures = {"messages/test_x.py::test_y": "lost"} if failed else {}
    watched = Watched(claims, 0, True, {"rings": 4096})
    return Summary(
        kernel="reference", build=build, areas={"messages": counts}, failures=failures, watched=watched
    )


def shown(build: str = "abc") -> str:
    display = Console(file=StringIO(), width=200)
    with display.capture() as captured:
        display.print(history.table(history.read(build)))
    return captured.get()


def test_whole_runs_and_failures_are_counted() -> None:
    for one in (summary(), summary(failed=1), summary(claims=1), summary(build="other")):
        history.append(one)
    row = next(line for line in shown().splitlines() if "messages" in line)
    cells = [cell.strip() for cell in row.split("│")]
    assert [cells[1], *cells[3:6]] == ["messages", "3", "2", "1"], (
        "the run of one claim of three is no whole run"
    )
    assert cells[7] == "messages/test_x.py::test_y (1 of 3)"
    assert "7 machines, 0 findings" in shown()


def test_a_line_that_was_cut_is_passed_over(cache: Path) -> None:
    history.append(summary())
    with (cache / "runs" / "abc.history").open("ab") as file:
        file.write(b'{"ended": 17')
    assert len(history.read("abc")) == 1


def test_a_folder_carries_runs_to_the_next_computer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "carried"
    for computer in ("first", "second", "third"):
        monkeypatch.setenv("MKHARNESS_CACHE", str(tmp_path / computer))
        history.append(summary(failed=int(computer == "second")))
        history.carry("abc", folder)
        assert history.carry("abc", folder) == 0, "nothing is new the second time"
    assert len(history.read("abc")) == 3
    row = next(line for line in shown().splitlines() if "messages" in line)
    assert [cell.strip() for cell in row.split("│")][4:6] == ["3", "1"]


def test_a_file_carries_nothing(tmp_path: Path) -> None:
    history.append(summary())
    (tmp_path / "carried").write_text("mine")
    with pytest.raises(UsageError, match="carried"):
        history.carry("abc", tmp_path / "carried")
    assert (tmp_path / "carried").read_text() == "mine"


def test_nothing_yet() -> None:
    assert history.read("abc") == ()


def append_many(count: int) -> int:
    for _ in range(count):
        history.append(summary())
    return os.getpid()


def test_several_processes_at_once() -> None:
    with ProcessPoolExecutor(4) as pool:
        list(pool.map(append_many, [25] * 4))
    assert len(history.read("abc")) == 100


def test_an_area_s_runs_count_while_what_judges_there_is_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(paths, "CHECKOUT", tmp_path / "checkout")
    digest = history.suite_digest.__wrapped__
    files = ["tests/conformance/messages/test_x.py", "tests/conformance/files/test_y.py"]
    files += ["tests/conformance/conftest.py", "harness/oracle/stray.py", "harness/report/page.py"]
    for name in files:
        (paths.CHECKOUT / name).parent.mkdir(parents=True, exist_ok=True)
        (paths.CHECKOUT / name).write_text("x = 1\n")
    before = digest("messages")
    same = {}
    for name in files:
        (paths.CHECKOUT / name).write_text("x = 2\n")
        same[name] = digest("messages") == before
        (paths.CHECKOUT / name).write_text("x = 1\n")
    assert [name for name, is_same in same.items() if is_same] == [files[1], files[4]]
