# SPDX-License-Identifier: MIT
"""Programs started by the harness end with it, however it ends."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from harness import process
from harness.errors import HarnessError


def alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except OSError:
        return False
    return state != "Z"


def wait_for(condition, seconds=10.0):
    limit = time.monotonic() + seconds
    while time.monotonic() < limit:
        if condition():
            return True
        time.sleep(0.02)
    return False


def test_child_outlives_the_thread_that_asked_for_it():
    found = []
    thread = threading.Thread(target=lambda: found.append(process.popen(["sleep", "60"])))
    thread.start()
    thread.join()
    time.sleep(0.2)
    try:
        assert found[0].poll() is None
    finally:
        process.end(found[0])
    assert found[0].returncode == -signal.SIGTERM


HARNESS = """
import sys, time
from harness import process
with process.running(["sh", "-c", "sleep 61 & echo $! > {file}.new; mv {file}.new {file}; wait"]) as child:
    print(child.pid, flush=True)
    time.sleep(60)
"""


def test_grandchildren_die_with_a_killed_harness(tmp_path):
    file = tmp_path / "grandchild"
    harness = subprocess.Popen(
        [sys.executable, "-c", HARNESS.format(file=file)], stdout=subprocess.PIPE, text=True
    )
    assert harness.stdout is not None
    child = int(harness.stdout.readline())
    assert wait_for(file.exists)
    grandchild = int(file.read_text())
    assert alive(child)
    assert alive(grandchild)
    os.kill(harness.pid, signal.SIGKILL)
    harness.wait()
    assert wait_for(lambda: not alive(child) and not alive(grandchild))


def test_leaving_the_block_ends_the_group(tmp_path):
    file = tmp_path / "grandchild"
    with process.running(["sh", "-c", f"sleep 62 & echo $! > {file}; exit 3"]) as child:
        assert child.wait() == 3
        grandchild = int(file.read_text())
        assert alive(grandchild)
    assert wait_for(lambda: not alive(grandchild))


def test_exit_status_and_output_are_the_programs_own():
    with process.running(["sh", "-c", "echo $$; exit 7"], stdout=subprocess.PIPE) as child:
        out, _ = child.communicate()
    assert child.returncode == 7
    assert int(out) == child.pid


def test_missing_setpriv_is_named(monkeypatch):
    monkeypatch.setenv("PATH", "/nonexistent")
    with pytest.raises(HarnessError, match="cannot start qemu"):
        process.popen(["qemu"])
