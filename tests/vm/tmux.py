# SPDX-License-Identifier: MIT
"""A real terminal for tests: tmux types its keys and reads its screen."""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from harness.build import Build

MKH = Path(sys.executable).parent / "mkh"
PREFIX = "C-]"
PATIENCE = 90.0
SHELL = "env -i bash --norc --noediting"
"""It leaves the terminal's settings alone: readline changes them at each prompt, a moment later."""


class Tmux:
    """A terminal of its own, with a shell whose prompt is ``ok>``."""

    def __init__(self, folder: Path) -> None:
        self._socket = str(folder / "tmux")
        self.prompt = "ok>"
        self.before = ""
        """The terminal's settings before what is tried."""
        self.run("-f", "/dev/null", "new-session", "-d", "-x", "110", "-y", "36", SHELL)
        for name, value in {**os.environ, "PS1": "ok> ", "TERM": "screen"}.items():
            if name in {"PATH", "HOME", "PS1", "TERM", "LANG", "LC_ALL", "MKHARNESS_CACHE"}:
                self.type(f"export {name}={shlex.quote(value)}")
        self.type("clear")

    def run(self, *words: str) -> str:
        command = ["tmux", "-S", self._socket, *words]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout

    def keys(self, *names: str) -> None:
        self.run("send-keys", *names)

    def type(self, line: str) -> None:
        self.run("send-keys", "-l", line)
        self.keys("Enter")

    def command(self, key: str) -> None:
        """Type the prefix and a key."""
        self.keys(PREFIX)
        self.keys(key)

    def screen(self) -> str:
        return self.run("capture-pane", "-p")

    def wait(self, wanted: str | Callable[[str], object]) -> str:
        """Wait until the screen matches a regular expression, or a condition holds of it."""
        limit = time.monotonic() + PATIENCE
        while True:
            screen = self.screen()
            if re.search(wanted, screen, re.MULTILINE) if isinstance(wanted, str) else wanted(screen):
                return screen
            assert time.monotonic() < limit, f"{wanted} did not come:\n{screen}"
            time.sleep(0.1)

    @property
    def shell(self) -> int:
        """The process id of its shell."""
        return int(self.run("display-message", "-p", "#{pane_pid}"))

    @property
    def tty(self) -> str:
        """The terminal whose settings are meant."""
        return self.run("display-message", "-p", "#{pane_tty}").strip()

    def settings(self) -> str:
        """Return the terminal's settings, as stty has them."""
        return subprocess.run(
            ["stty", "-F", self.tty, "-a"], capture_output=True, text=True, check=True
        ).stdout.partition("\n")[2]

    @property
    def other_screen(self) -> bool:
        return self.run("display-message", "-p", "#{alternate_on}").strip() == "1"

    @property
    def cursor_shown(self) -> bool:
        return self.run("display-message", "-p", "#{cursor_flag}").strip() == "1"


def console_words(build: Build, config: pytest.Config) -> list[str]:
    """Return the command line of `mkh console` for the kernel under test."""
    words = [str(MKH), "console", "--kernel", build.definition.name, "--accel", config.getoption("--accel")]
    series = config.getoption("--series")
    return [*words, "--series", series] if series else words


def opened(tmux: Tmux, words: list[str]) -> Tmux:
    """Return the terminal with a console of two kernels, at their prompts."""
    tmux.wait(f"^{tmux.prompt}")
    tmux.before = tmux.settings()
    tmux.type(shlex.join(words) + "; echo status $?")
    tmux.wait("^host# *$")
    tmux.wait("^alpha# *$")
    return tmux


def pids(console: Tmux) -> tuple[int, int]:
    """Return the process ids of mkh and of its QEMU."""
    mkh = child_of(console.shell)
    qemu = subprocess.run(["pgrep", "-P", str(mkh), "qemu"], capture_output=True, text=True, check=True)
    return mkh, int(qemu.stdout)


def child_of(parent: int) -> int:
    return int(
        subprocess.run(["pgrep", "-P", str(parent)], capture_output=True, text=True, check=True).stdout
    )


def assert_sane(tmux: Tmux) -> None:
    """The terminal is as it was: its settings, its screen, its cursor, and what is typed is echoed."""
    tmux.wait(f"^{tmux.prompt} *$")
    assert tmux.settings() == tmux.before
    assert not tmux.other_screen
    assert tmux.cursor_shown
    tmux.keys("-l", "echo e''cho")
    tmux.wait(f"^{tmux.prompt} echo e''cho$")
    tmux.keys("Enter")
    tmux.wait("^echo$")


def assert_gone(pid: int) -> None:
    limit = time.monotonic() + 10
    while True:
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            state = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()[0]
            if state != "Z":
                assert time.monotonic() < limit, f"process {pid} is still there"
                time.sleep(0.1)
                continue
        return
