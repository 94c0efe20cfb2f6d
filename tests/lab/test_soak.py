# SPDX-License-Identifier: MIT
"""Forks of a machine with two live kernels, many of them, and a run that is killed in the middle.

With MKHARNESS_SOAK=1 there are 200 forks one after another and 200 four at a time.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from harness.forks import Forks
from harness.progress import Progress
from harness.vm import memory

pytestmark = pytest.mark.needs("spawn")

IN_A_ROW, AT_ONCE = (200, 200) if os.environ.get("MKHARNESS_SOAK") else (20, 20)

TEST = """
import pathlib, time
from harness.progress import Progress

def test_two_machines(pair, forks):
    with forks.lab("spawned", Progress()) as other:
        pids = f"{pair.lab.machine.pid} {other.machine.pid}"
        pathlib.Path("there.new").write_text(pids)
        pathlib.Path("there.new").rename("there")
        time.sleep(600)
"""


def children() -> set[str]:
    """Return the processes that this one has started."""
    found = set()
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            if stat.read_text().rpartition(")")[2].split()[1] == str(os.getpid()):
                found.add(stat.parent.name)
        except OSError:
            continue
    return found


def descriptors() -> int:
    """Return how many files, pipes and sockets are open."""
    return len(list(Path("/proc/self/fd").iterdir()))


@pytest.mark.timeout(3600)
def test_many_forks_leave_nothing(forks: Forks) -> None:
    quiet = Progress(Progress.quiet_console())

    def fork(_: int) -> list[str]:
        with forks.lab("spawned", quiet) as lab:
            pair = lab.pair()
            return [kernel.run("hostname") for kernel in (pair.host, pair.spawned)]

    names, failed = fork(0), forks.failed
    before = descriptors(), threading.active_count(), children()
    assert [fork(number) for number in range(IN_A_ROW)] == [names] * IN_A_ROW
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(fork, range(AT_ONCE))) == [names] * AT_ONCE
    assert forks.failed == failed, "a fork did not resume"
    limit = time.monotonic() + 10
    while (descriptors(), threading.active_count(), children()) != before and time.monotonic() < limit:
        time.sleep(0.05)
    assert (descriptors(), threading.active_count(), children()) == before


def test_a_run_that_is_killed_leaves_nothing(
    forks: Forks, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    with forks.lab("spawned", Progress()):
        pass
    scratch, run = tmp_path / "scratch", tmp_path / "run"
    scratch.mkdir()
    run.mkdir()
    (run / "test_two.py").write_text(TEST, encoding="utf-8")
    option = request.config.getoption
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "test_two.py"]
    for name in ("--kernel", "--series", "--base", "--bzimage", "--vmlinux", "--dialect", "--accel"):
        command += [name, str(option(name))] if option(name) else []
    before = set(memory.SHM.iterdir())
    with subprocess.Popen(command, cwd=run, env={**os.environ, "TMPDIR": str(scratch)}) as killed:
        limit = time.monotonic() + 120
        while not (run / "there").exists() and killed.poll() is None and time.monotonic() < limit:
            time.sleep(0.05)
        machines = (run / "there").read_text().split()
        assert all(Path("/proc", pid).exists() for pid in machines)
        killed.send_signal(signal.SIGKILL)
        killed.wait()

    def left() -> list[str]:
        running = [pid for pid in machines if Path("/proc", pid).exists()]
        return [*running, *map(str, scratch.iterdir()), *map(str, set(memory.SHM.iterdir()) - before)]

    limit = time.monotonic() + 20
    while left() and time.monotonic() < limit:
        time.sleep(0.05)
    assert not left()
