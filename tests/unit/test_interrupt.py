# SPDX-License-Identifier: MIT
"""Ctrl-C stops a run of the suite at once, with what was counted so far, and leaves no process behind."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import msgspec
import pytest

from harness.report.suite import Summary

DRIVER = """
import sys
from pathlib import Path
import msgspec
from harness import interrupt, paths, testing
from harness.progress import Progress

interrupt.install()
paths.CHECKOUT = Path(sys.argv[1])
testing.CONFORMANCE = paths.CHECKOUT / "tests" / "conformance"
status, summary = testing.run(None, [], Progress(), workers=int(sys.argv[2]), retry=True)
print(msgspec.json.encode(summary).decode())
sys.exit(status)
"""
TESTS = """
import os, time
from pathlib import Path
import pytest
from harness import process
from harness.plugin import claim

PIDS = Path({folder!r})

@claim("it is quick", source="a post")
def test_a_quick():
    pass

@pytest.fixture
def machine():
    with process.running(["sleep", "1000"]) as child:
        (PIDS / f"pid-{{child.pid}}").touch()
        yield
        {after}

@claim("it runs on", source="a post")
@pytest.mark.parametrize("case", [1, 2])
def test_b_slow(machine, case):
    (PIDS / f"pid-{{os.getpid()}}").touch()
    time.sleep(1000)

@claim("it never began", source="a post")
@pytest.mark.parametrize("case", [1, 2, 3])
def test_c_later(case):
    (PIDS / f"pid-{{os.getpid()}}").touch()
    time.sleep(1000)
"""


def start(folder: Path, workers: int, after: str = "pass") -> subprocess.Popen[bytes]:
    """Start a run, wait until it is in the middle of a test."""
    suite = folder / "tests" / "conformance"
    (suite / "area").mkdir(parents=True)
    (folder / "pytest.ini").write_text("[pytest]\n")
    (suite / "area" / "test_it.py").write_text(TESTS.format(folder=str(folder), after=after))
    child = subprocess.Popen(
        [sys.executable, "-c", DRIVER, str(folder), str(workers)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    wait_for(lambda: len(pids(folder)) >= (3 if workers else 2), child)
    return child


def pids(folder: Path) -> list[int]:
    return [int(file.name.removeprefix("pid-")) for file in folder.glob("pid-*")]


def wait_for(done, child: subprocess.Popen[bytes] | None = None) -> None:
    limit = time.monotonic() + 400
    while not done():
        assert time.monotonic() < limit, "it did not come about"
        assert child is None or child.poll() is None, child.communicate()
        time.sleep(0.05)


def gone(folder: Path) -> bool:
    return not any(Path(f"/proc/{pid}").exists() for pid in pids(folder))


@pytest.mark.parametrize("workers", [0, 2], ids=["alone", "workers"])
@pytest.mark.parametrize("whole_group", [False, True], ids=["kill", "terminal"])
def test_a_partial_report_and_no_process_left(tmp_path, workers, whole_group):
    child = start(tmp_path, workers)
    (os.killpg if whole_group else os.kill)(child.pid, signal.SIGINT)
    told, errors = child.communicate(timeout=400)
    assert child.returncode == 130, errors.decode()
    summary = msgspec.json.decode(told, type=Summary)
    assert summary.outcomes["area/test_it.py::test_b_slow"] == "not_run"
    assert summary.outcomes["area/test_it.py::test_c_later"] == "not_run"
    assert (summary.claims, summary.failed, summary.not_run) == (3, 0, 3 - summary.passed)
    assert summary.passed == 1 or workers, "what was finished counts"
    assert b"claims" in errors
    assert b"interrupted: stopping" in errors
    wait_for(lambda: gone(tmp_path))


@pytest.mark.parametrize("workers", [0, 2], ids=["alone", "workers"])
def test_the_second_ends_at_once(tmp_path, workers):
    # What cleans up takes its time, and takes no interruption for an answer.
    stubborn = "import contextlib\n        with contextlib.suppress(BaseException): time.sleep(1000)"
    child = start(tmp_path, workers, f"{stubborn}\n        time.sleep(1000)")
    os.kill(child.pid, signal.SIGINT)
    time.sleep(1)
    os.kill(child.pid, signal.SIGINT)
    child.communicate(timeout=400)
    # Killed workers clean nothing up: the second may find a Python that ends already and handles no signal.
    assert child.returncode == 130 or (workers and child.returncode == -signal.SIGINT)
    wait_for(lambda: gone(tmp_path))
