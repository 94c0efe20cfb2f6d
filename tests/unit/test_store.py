# SPDX-License-Identifier: MIT
"""An entry of the store is complete or not there, whatever is killed or runs at the same time."""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from rich.console import Console

from harness.build import store
from harness.progress import Progress


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MKHARNESS_CACHE", str(tmp_path))
    return tmp_path


def fill(folder: Path, text: str = "x") -> None:
    for name in store.FILES:
        (folder / name).write_text(text)


def test_entry_appears_complete():
    with store.adding("abc") as folder:
        fill(folder)
        assert store.find("abc") is None
    entry = store.find("abc")
    assert entry is not None
    assert (entry / "bzImage").read_text() == "x"


def test_failure_leaves_nothing_and_harms_nothing():
    with store.adding("abc") as folder:
        fill(folder)

    def fail() -> None:
        with store.adding("abc") as folder:
            fill(folder, "half")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert [path.name for path in store.folder().iterdir()] == ["abc"]
    assert (store.folder() / "abc/bzImage").read_text() == "x"


def test_killed_run_leaves_no_entry(cache):
    script = (
        "import time\nfrom harness.build import store\n"
        "with store.adding('abc') as folder:\n"
        "    for name in store.FILES[:-1]: (folder / name).write_text('half')\n"
        "    print('ready', flush=True)\n    time.sleep(60)\n"
    )
    child = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE)
    assert child.stdout is not None
    child.stdout.readline()
    os.kill(child.pid, signal.SIGKILL)
    child.wait()
    assert store.find("abc") is None
    with store.adding("abc") as folder:
        assert not list(folder.iterdir())
        fill(folder)
    assert store.find("abc") is not None


def test_damaged_entry_is_not_found_and_is_replaced():
    with store.adding("abc") as folder:
        fill(folder)
    (store.folder() / "abc/vmlinux").unlink()
    assert store.find("abc") is None
    with store.adding("abc") as folder:
        fill(folder)
    assert store.find("abc") is not None


def test_one_build_at_a_time_and_waiting_is_shown():
    progress = Progress(Console(file=io.StringIO()))
    order = []

    def second() -> None:
        with store.build_lock(progress):
            order.append("second")

    with store.build_lock(progress):
        thread = threading.Thread(target=second)
        thread.start()
        time.sleep(0.5)
        order.append("first")
    thread.join(10)
    assert order == ["first", "second"]
    assert "Waiting for another build" in progress.console.file.getvalue()
