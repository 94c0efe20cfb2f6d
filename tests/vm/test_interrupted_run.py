# SPDX-License-Identifier: MIT
"""Ctrl-C typed at `mkh test` while a test runs on a machine: a partial report, nothing left running."""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import time
from pathlib import Path

import msgspec
import pexpect
import pytest
from tmux import MKH, assert_gone

from harness.build import Build
from harness.report import record

SUITE = "tests/conformance/stopping"
"""Every claim there takes seconds, on a machine with two kernels."""
LIMIT = 240.0
"""Seconds; on an idle computer it ends in two."""


def tree(pid: int) -> list[int]:
    """Return a process and all that it has started, and so on."""
    found = subprocess.run(["pgrep", "-P", str(pid)], capture_output=True, text=True, check=False)
    return [pid, *(each for child in found.stdout.split() for each in tree(int(child)))]


def is_qemu(pid: int) -> bool:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/comm").read_text(encoding="ascii").startswith("qemu")
    return False


@pytest.mark.parametrize("workers", [0, 2], ids=["alone", "workers"])
def test_a_partial_report_and_no_machine_left(
    workers: int, tmp_path: Path, build: Build, request: pytest.FixtureRequest
) -> None:
    words = ["test", "--kernel", build.definition.name, "--accel", request.config.getoption("--accel")]
    if series := request.config.getoption("--series"):
        words += ["--series", series]
    words += ["--report", str(tmp_path / "report"), "-n", str(workers), "--trust", SUITE]
    terminal = {**os.environ, "TERM": "xterm"}
    with pexpect.spawn(str(MKH), words, encoding="utf-8", dimensions=(40, 120), env=terminal) as child:
        # One claim has been checked, and the next is on its machine.
        child.expect(r"[1-9]\d* passed", timeout=LIMIT)
        limit = time.monotonic() + LIMIT
        while not any(map(is_qemu, started := tree(child.pid))):
            assert time.monotonic() < limit
            with contextlib.suppress(pexpect.TIMEOUT):
                child.read_nonblocking(1 << 20, 0.05)
        child.sendintr()
        child.expect("interrupted: stopping", timeout=LIMIT)
        child.expect("claims were not run", timeout=LIMIT)
        child.expect(pexpect.EOF, timeout=LIMIT)
        child.wait()
        assert (child.exitstatus, child.signalstatus) == (130, None)
    for pid in started:
        assert_gone(pid)
    done = record.read(tmp_path / "report" / "report.json")
    assert isinstance(done, record.Record)
    assert done.summary.failed == 0
    assert done.summary.passed > 0
    assert done.summary.not_run > 5
    assert done.summary.passed + done.summary.not_run + done.summary.skipped == done.summary.claims
    page = (tmp_path / "report" / "report.html").read_text(encoding="utf-8")
    assert re.search(rf"\b{done.summary.not_run} not run\b", page)
    assert (tmp_path / "report" / "junit.xml").stat().st_size
    assert msgspec.json.decode((tmp_path / "report" / "kcidb.json").read_bytes())
