# SPDX-License-Identifier: MIT
"""`--pause-on-fail`: a failing test's machine waits for a person, with and without a terminal."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pexpect
import pytest

BIN = Path(sys.executable).parent
TESTS = """
def test_wrong_value(pair):
    assert pair.host.run("echo 41").strip() == "42"

def test_complains(pair):
    pair.spawned.console.send("echo '<0>BUG: made by a test' >/dev/kmsg\\n")
    pair.spawned.console.expect(r"\\] BUG: made by a test\\r", trouble=False)

def test_good(pair):
    assert pair.host.run("echo 41").strip() == "41"
"""


@pytest.fixture
def words(tmp_path: Path, request: pytest.FixtureRequest, build: object) -> list[str]:
    file = tmp_path / "test_three.py"
    file.write_text(TESTS)
    given = [
        str(BIN / "pytest"),
        "-q",
        "--color=no",
        "--trust",
        "-p",
        "no:cacheprovider",
        "--rootdir",
        str(tmp_path),
    ]
    for option in ("--kernel", "--series", "--base", "--accel"):
        if value := request.config.getoption(option):
            given += [option, value]
    return [*given, "--pause-on-fail", str(file)]


def mkh(*what: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([str(BIN / "mkh"), *what], capture_output=True, text=True, check=False)


@pytest.fixture
def terminal(words: list[str]) -> Iterator[pexpect.spawn]:
    environment = {**os.environ, "TERM": "xterm"}
    child = pexpect.spawn(
        words[0], words[1:], encoding="utf-8", timeout=240, env=environment, dimensions=(40, 120)
    )
    yield child
    child.close(force=True)


def test_at_a_terminal_it_asks_at_each_failure(terminal: pexpect.spawn) -> None:
    terminal.expect("test_wrong_value failed")
    terminal.expect("gdb -nx -q -x")
    terminal.expect("end the tests >")
    listed = mkh("debug")
    assert "test_wrong_value  (a failed test waits" in listed.stdout
    terminal.sendline("c")
    terminal.expect("the machine is running")
    # Its consoles, in the same terminal, and back.
    terminal.sendline("o")
    terminal.expect("test_wrong_value: running")
    terminal.send("\x1dd")
    terminal.expect("end the tests >")
    terminal.sendline("g")
    # What is found out after a test pauses as well, and is there, too.
    terminal.expect("test_complains failed")
    terminal.expect("BUG: made by a test")
    terminal.expect("end the tests >")
    terminal.sendline("e")
    terminal.expect("ended at a paused failure")
    terminal.expect("1 failed, 1 passed, 1 error")
    terminal.expect(pexpect.EOF)


def wait_for(name: str) -> None:
    """Wait until a test's machine waits."""
    limit = time.monotonic() + 240
    while f"{name}  (a failed test waits" not in mkh("debug").stdout:
        assert time.monotonic() < limit
        time.sleep(0.5)


def test_without_a_terminal_another_says_how_it_goes_on(words: list[str]) -> None:
    pipes = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    with subprocess.Popen(words, **pipes) as run:  # type: ignore[call-overload]
        try:
            wait_for("test_wrong_value")
            assert mkh("console", "--attach", "test_wrong_value", "--go-on").returncode == 0
            wait_for("test_complains")
            assert mkh("console", "--attach", "test_complains", "--end").returncode == 0
            said = run.communicate(timeout=120)[0].decode()
        finally:
            run.kill()
    assert "no terminal here" in said
    assert "1 failed, 1 passed, 1 error" in said


def test_not_in_several_processes(words: list[str]) -> None:
    done = subprocess.run([*words, "-n", "2"], capture_output=True, text=True, check=False)
    assert done.returncode == 4
    assert "one process" in done.stderr
    done = mkh("test", "--pause-on-fail", "-n", "2")
    assert done.returncode == 2
    assert "one process" in done.stderr
