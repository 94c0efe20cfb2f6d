# SPDX-License-Identifier: MIT
"""The view of a run in a terminal: a real pytest in a terminal of its own, looked at as a person does."""

import os
import re
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pexpect
import pyte
import pytest

from harness import live, paths

TESTS = """
import time
import pytest
from harness.plugin import claim

@claim("it passes", source="a post")
def test_first():
    pass

@claim("it fails", source="a post")
@pytest.mark.parametrize("case", ["[bold]x"])
def test_fails(case):
    print("\\x1b[2J" + "what the test printed")
    assert 1 == 2, "one is not two"

@claim("it takes its time", source="a post")
def test_slow():
    time.sleep(SECONDS)
"""
RUN = """
import sys
import pytest
from harness import interrupt, live
interrupt.install()
with live.shown() as plugins:
    status = pytest.main(sys.argv[1:], plugins=plugins)
print("standard output is back")
sys.exit(int(status))
"""


class Terminal:
    """A terminal in which the tests run."""

    def __init__(self, folder: Path, seconds: float, *options: str, **environment: str) -> None:
        place = folder / "tests/conformance/loading"
        place.mkdir(parents=True)
        (folder / "pytest.ini").write_text("[pytest]\n")
        (place / "test_it.py").write_text(TESTS.replace("SECONDS", str(seconds)))
        (folder / "run.py").write_text(RUN)
        self.screen = pyte.HistoryScreen(100, 24, history=1000)
        self._stream = pyte.ByteStream(self.screen)
        self.raw = b""
        env = {
            **{key: value for key, value in os.environ.items() if not key.startswith("PYTEST")},
            "TERM": "xterm-256color",
            "PYTHONPATH": str(paths.CHECKOUT),
            **environment,
        }
        env.pop("NO_COLOR", None) if "NO_COLOR" not in environment else None
        self.child = pexpect.spawn(
            sys.executable, ["run.py", *options, "tests"], cwd=str(folder), env=env, dimensions=(24, 100)
        )

    @property
    def text(self) -> str:
        return "\n".join(line.rstrip() for line in self.screen.display).strip()

    def until(self, what: Callable[[], bool], seconds: float = 60) -> None:
        limit = time.monotonic() + seconds
        while not what():
            assert time.monotonic() < limit, self.text
            try:
                self.feed(self.child.read_nonblocking(65536, 0.2))
            except pexpect.TIMEOUT:
                continue
            except pexpect.EOF:
                assert what(), self.text
                return

    def feed(self, data: bytes) -> None:
        self.raw += data
        self._stream.feed(data)

    def end(self) -> int:
        while True:
            try:
                self.feed(self.child.read_nonblocking(65536, 60))
            except pexpect.EOF:
                break
        self.child.close()
        return int(self.child.exitstatus if self.child.exitstatus is not None else -self.child.signalstatus)


@pytest.mark.parametrize("workers", [(), ("-n", "2")], ids=["alone", "workers"])
def test_what_runs_and_what_failed_are_there_and_at_the_end_failures_come_first(
    tmp_path: Path, workers: tuple[str, ...]
) -> None:
    terminal = Terminal(tmp_path, 6, *workers)
    terminal.until(lambda: "test_slow" in terminal.text and "loading 2" in terminal.text)
    assert "failed loading/test_it.py::test_fails[" in terminal.text
    assert "one is not two" in terminal.text
    assert "of 3 tests" in terminal.text
    assert "test session starts" not in terminal.text
    assert terminal.end() == 1
    said = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", terminal.raw.decode())
    assert said.rindex("what the test printed") < said.rindex("not run")
    assert "standard output is back" in terminal.text
    assert not terminal.screen.cursor.hidden


def test_it_fits_into_a_terminal_that_becomes_narrow(tmp_path: Path) -> None:
    terminal = Terminal(tmp_path, 8)
    terminal.until(lambda: "test_slow" in terminal.text)
    terminal.child.setwinsize(10, 40)
    terminal.screen.resize(10, 40)
    terminal.screen.reset()
    terminal.raw = b""

    def fits() -> bool:
        drawn = re.sub(rb"\x1b\[[0-9;?]*[A-Za-z]", b"", terminal.raw).decode(errors="replace")
        narrow = max(len(line) for line in re.split(r"[\r\n]+", drawn)) <= 40
        if not narrow:
            # Drawn before it was known.
            terminal.raw = b""
            terminal.screen.reset()
        return narrow and terminal.text.count("of 3 tests") == 1

    terminal.until(fits)
    terminal.child.close(force=True)


def test_an_interruption_leaves_the_terminal_as_it_was(tmp_path: Path) -> None:
    terminal = Terminal(tmp_path, 60)
    terminal.until(lambda: "test_slow" in terminal.text)
    assert terminal.screen.cursor.hidden
    terminal.child.sendintr()
    assert terminal.end() == pytest.ExitCode.INTERRUPTED
    assert not terminal.screen.cursor.hidden
    assert "1 failed" in terminal.raw.decode() or "failed" in terminal.text
    assert "interrupted: stopping" in terminal.raw.decode()


def test_no_color_has_none(tmp_path: Path) -> None:
    terminal = Terminal(tmp_path, 0.1, NO_COLOR="1")
    assert terminal.end() == 1
    codes = set(re.findall(r"\x1b\[([0-9;]*)m", terminal.raw.decode()))
    assert not [code for code in codes if re.search(r"\b(3[0-7]|4[0-7]|9[0-7]|38|48)\b", code)]


def test_what_cannot_be_collected_is_told_as_pytest_does(tmp_path: Path) -> None:
    terminal = Terminal(tmp_path, 0.1, "--no-such-option")
    assert terminal.end() == pytest.ExitCode.USAGE_ERROR
    assert "unrecognized arguments" in terminal.text


def test_it_is_for_terminals_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    monkeypatch.setenv("TERM", "xterm")
    assert live.wanted(["-k", "x"])
    assert not live.wanted(["-s"])
    monkeypatch.setenv("TERM", "dumb")
    assert not live.wanted([])
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(sys.stderr, "isatty", lambda: False, raising=False)
    assert not live.wanted([])
