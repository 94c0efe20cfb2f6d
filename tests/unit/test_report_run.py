# SPDX-License-Identifier: MIT
"""Real runs with ``--report``: what one process and several leave in the folder."""

from pathlib import Path
from xml.etree import ElementTree as Xml

import pytest

from harness.report import record
from harness.report.record import Record

pytest_plugins = "pytester"

WORKERS = pytest.mark.parametrize("workers", [(), ("-n", "2")], ids=["alone", "workers"])
NAMES = {"report.html", "junit.xml", "results.ktap", "report.json", "kcidb.json"}
TEXT = r"""
import socket
import pytest
from types import SimpleNamespace
from harness.plugin import claim
from harness.plugin.stash import LAB
from harness import failure
from harness.vm.console import Console
from harness.vm.pump import Pump
import time

@pytest.fixture
def printed(request):
    "A console on a line of its own, as that of a machine."
    near, far = socket.socketpair()
    pump = Pump(near, near, "host")
    console = Console(pump, ended=lambda: None)
    pump.start()
    silent, other = socket.socketpair()
    alphas = Pump(silent, silent, "alpha")
    alpha = Console(alphas, ended=lambda: None)
    alphas.start()
    other.sendall(b"alpha is up\r\n")
    alphas.drain(5)
    far.sendall(b"Kernel panic - not syncing: early\r\n" + b"a line\r\n" * 1000)
    far.sendall(b"\x1b[31m<script>alert(1)</script>\x1b[0m\r\nKernel panic - not syncing: so\r\nthe last\r\n")
    pump.drain(5)
    machine = SimpleNamespace(consoles={"alpha": alpha, "host": console})
    request.node.stash[LAB] = SimpleNamespace(machine=machine)
    failure.keep(failure.Failure(test=request.node.nodeid, ended=time.time(), why="it fails"), {})
    yield
    for end in (far, pump, other, alphas):
        end.close()

@claim("it passes", source="a post")
def test_passes(seen):
    seen("what it saw")

@claim("it fails", source="another post")
def test_fails(printed):
    assert 1 == 2, "one is not two"

@claim("its machine is not there", source="a post")
def test_machine(absent):
    pass

@pytest.fixture
def absent():
    raise ValueError("no machine")

@claim("it is skipped", source="a post")
@pytest.mark.parametrize("case", [1, 2])
def test_skipped(case):
    pytest.skip("no such thing")

@claim("it fails as known", source="a post")
@pytest.mark.xfail(reason="V9-99: it is so", strict=True)
def test_known():
    assert 5 == 6
"""


@pytest.fixture(autouse=True)
def cache(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MKHARNESS_CACHE", str(pytester.path / "cache"))


def run(pytester: pytest.Pytester, text: str, *options: str) -> tuple[pytest.RunResult, Record]:
    folder = pytester.path / "tests/conformance/loading"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "test_it.py").write_text(text)
    (pytester.path / "pytest.ini").write_text("[pytest]\n")
    result = pytester.runpytest_subprocess("--report", "out", "--no-oracles", *options, "tests")
    found = record.read(pytester.path / "out/report.json")
    assert isinstance(found, Record)
    return result, found


@WORKERS
def test_every_format_is_written_and_tells_the_same(
    pytester: pytest.Pytester, workers: tuple[str, ...]
) -> None:
    result, found = run(pytester, TEXT, *workers)
    assert result.ret == 1
    out = pytester.path / "out"
    assert {file.name for file in out.iterdir()} == NAMES
    cases = {case.name: case for case in found.cases}
    assert {name: case.outcome for name, case in cases.items()} == {
        "test_passes": "passed",
        "test_fails": "failed",
        "test_machine": "failed",
        "test_skipped[1]": "skipped",
        "test_skipped[2]": "skipped",
        "test_known": "known",
    }
    assert cases["test_passes"].seen == "what it saw"
    assert cases["test_skipped[1]"].why == "no such thing"
    assert cases["test_machine"].phase == "setup"
    assert found.claim(cases["test_fails"]).source == "another post"
    assert "one is not two" in cases["test_fails"].why
    assert "> " in cases["test_fails"].text
    assert Xml.parse(out / "junit.xml").find(".//failure") is not None
    assert "not ok 1 loading" in (out / "results.ktap").read_text()
    result.stdout.fnmatch_lines(["report: *report.html"])
    # The failing test's console came along, within limits.
    console, alpha = cases["test_fails"].consoles
    assert (console.kernel, alpha.kernel) == ("host", "alpha"), "the host is the first, as in memory"
    assert Path(cases["test_fails"].kept).is_relative_to(pytester.path / "cache/failures")
    assert len(console.lines) == record.LINES
    assert console.lines[-3].text == "^[[31m<script>alert(1)</script>^[[0m"
    assert console.lines[-1].text == "the last"
    assert [(splat.at, splat.text) for splat in console.splats] == [
        (console.lines[-2].at, "Kernel panic: so")
    ]
    early = len("Kernel panic - not syncing: early\r\n")
    assert console.before == (1000 - record.LINES + 3) * len("a line\r\n") + early
    assert all(0 <= line.at < 60 for line in console.lines)
    assert "<script>" not in (out / "report.html").read_text()


@WORKERS
def test_a_file_that_cannot_be_collected_is_told(pytester: pytest.Pytester, workers: tuple[str, ...]) -> None:
    result, found = run(pytester, "import nothing_of_that_name\n", *workers)
    assert result.ret != 0
    (text,) = found.errors.values()
    assert "nothing_of_that_name" in text
    assert "not ok 1 collection" in (pytester.path / "out/results.ktap").read_text()


def test_a_worker_that_dies_is_told(pytester: pytest.Pytester) -> None:
    text = TEXT + "import os\n@claim('dies', source='')\ndef test_dies():\n    os._exit(0)\n"
    _, found = run(pytester, text, "-n", "2")
    died = next(case for case in found.cases if case.name == "test_dies")
    assert (died.outcome, died.phase) == ("failed", "worker")


def test_a_run_that_was_interrupted_leaves_a_report_of_what_it_did(pytester: pytest.Pytester) -> None:
    text = TEXT + "@claim('cut', source='')\ndef test_cut():\n    raise KeyboardInterrupt\n"
    text += "@claim('late', source='')\ndef test_late():\n    pass\n"
    _, found = run(pytester, text)
    assert {case.name: case.outcome for case in found.cases}["test_late"] == "not_run"
    assert found.summary.passed == 1


def test_a_run_is_compared_with_an_earlier_report(pytester: pytest.Pytester) -> None:
    run(pytester, TEXT)
    (pytester.path / "out/report.json").rename(pytester.path / "earlier.json")
    worse = TEXT.replace('seen("what it saw")', "assert 0").replace("assert 1 == 2", "assert 1 == 1")
    _, found = run(pytester, worse, "--against", "earlier.json")
    assert found.before is not None
    assert found.before.outcomes["loading/test_it.py::test_passes"] == "passed"
    assert "new failures" in (pytester.path / "out/report.html").read_text()


@pytest.mark.parametrize("options", [("--against", "none.json"), ("--against", "pytest.ini")])
def test_what_is_no_run_is_refused_before_anything_runs(
    pytester: pytest.Pytester, options: tuple[str, ...]
) -> None:
    (pytester.path / "pytest.ini").write_text("[pytest]\n")
    result = pytester.runpytest_subprocess("--report", "out", *options)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["*is no run of the suite*"])
    assert not Path(pytester.path / "out").exists()


def test_without_the_option_nothing_is_written(pytester: pytest.Pytester) -> None:
    folder = pytester.path / "tests/conformance/loading"
    folder.mkdir(parents=True)
    (folder / "test_it.py").write_text(TEXT)
    pytester.runpytest_subprocess("tests")
    assert not any(file.name in NAMES for file in pytester.path.rglob("*"))
