# SPDX-License-Identifier: MIT
"""`mkh console` as a person has it: in a real terminal (tmux), keys typed, the screen read."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import time
from pathlib import Path

import pytest
from tmux import MKH, Tmux, assert_gone, assert_sane, child_of, console_words, opened, pids

from harness.build import Build


@pytest.fixture
def console(tmux: Tmux, build: Build, request: pytest.FixtureRequest) -> Tmux:
    """A terminal with `mkh console` of the kernel under test, at its prompts."""
    return opened(tmux, console_words(build, request.config))


def test_a_person_looks_at_two_kernels(console: Tmux) -> None:
    _, qemu = pids(console)
    console.type("echo $((40+2))-$(hostname)")
    console.wait("^42-host$")
    console.command("2")
    console.type("echo $((40+3))-$(hostname)")
    console.wait("^43-alpha$")
    # Back by Tab, and alone.
    console.command("Tab")
    console.command("z")
    console.wait(lambda screen: "1 host" in screen and "2 alpha" not in screen)
    console.command("z")
    console.wait("^ 2 alpha")
    # Search what was printed long ago: the kernel's first line.
    console.command("/")
    console.type("linux VERSION")
    console.wait(r"Linux version \d")
    assert "looking back" in console.screen()
    console.keys("q")
    # The vCPUs: each is of one of the kernels.
    console.command("v")
    screen = console.wait(r"^0 +0 +host +(halted|moving|NOT moving) +\w+\+0x")
    assert re.search(r"^3 +3 +alpha +(halted|moving|NOT moving) +\w+\+0x", screen, re.MULTILINE), screen
    console.keys("q")
    console.command("p")
    console.wait(r"claimed by")
    console.keys("q")
    console.command("m")
    console.type("info version")
    console.wait(r"^\d+\.\d+\.\d+")
    console.keys("Escape")
    # Another size: the lines wrap anew, and both kernels are there.
    console.run("resize-window", "-x", "80", "-y", "24")
    screen = console.wait(lambda text: re.search("^ 2 alpha", text, re.MULTILINE) and "43-alpha" in text)
    assert len(screen.splitlines()[0].rstrip()) <= 80
    console.command("c")
    console.wait("reference: stopped|: stopped")
    console.command("c")
    console.wait(": running")
    console.command("q")
    console.wait("ends this machine")
    console.keys("q")
    console.wait("^status 0$")
    assert_sane(console)
    assert_gone(qemu)


def test_what_a_guest_prints_does_not_drive_the_terminal(console: Tmux) -> None:
    title = console.run("display-message", "-p", "#{pane_title}")
    # A title, the clipboard, the cursor's place asked for, mouse reports, the other screen left.
    nasty = r"\033]2;evil\007\033]52;c;ZXZpbA==\007\033[6n\033[?1000h\033[?1049l\033[31mred\033[2J\033[Hhere"
    console.type(f"printf '{nasty}\\n'")
    console.wait("^here")
    console.type("echo after")
    console.wait("^after$")
    assert console.run("display-message", "-p", "#{pane_title}") == title
    assert console.other_screen
    assert console.run("display-message", "-p", "#{mouse_any_flag}").strip() in {"", "0"}
    assert "evil" not in console.run("list-buffers")
    console.command("q")
    console.keys("q")
    assert_sane(console)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL, signal.SIGHUP], ids=lambda one: one.name)
def test_a_killed_console_leaves_the_terminal_sane_and_nothing_running(console: Tmux, number: int) -> None:
    mkh, qemu = pids(console)
    os.kill(mkh, number)
    assert_gone(mkh)
    assert_gone(qemu)
    # Of SIGKILL the shell may know before the guard has brought back the screen that it writes to.
    console.wait(lambda _: not console.other_screen)
    console.type("echo status $?")
    console.wait(f"^status ({128 + number}|0)$")
    assert_sane(console)


def test_whoever_started_it_finds_the_terminal_sane(tmux: Tmux, build: Build) -> None:
    tmux.wait("^ok>")
    # Other than a shell at its prompt, sh does not look at the terminal's settings.
    tmux.type(f"sh -c '{MKH} console --kernel {build.definition.name}; cat'")
    tmux.wait("^host# *$")
    assert "-icanon" in tmux.settings()
    os.kill(child_of(child_of(tmux.shell)), signal.SIGKILL)
    tmux.wait(lambda _: not tmux.other_screen and tmux.cursor_shown)
    tmux.wait(lambda _: {"icanon", "echo", "opost", "icrnl", "isig"} <= set(tmux.settings().split()))
    tmux.type("echo")
    tmux.wait("^echo$\n^echo$")


def test_a_machine_that_ends_is_told(console: Tmux) -> None:
    _, qemu = pids(console)
    os.kill(qemu, signal.SIGKILL)
    console.wait("ended: QEMU was killed from outside")
    console.command("v")
    console.wait("error: ")
    console.keys("q")
    console.command("q")
    console.keys("q")
    assert_sane(console)


def test_a_kernel_that_floods_leaves_the_view_quick(console: Tmux) -> None:
    mkh, _ = pids(console)
    console.command("2")
    console.type("while :; do seq 100000; done")
    console.command("1")
    worst = 0.0
    for number in range(20):
        begun = time.monotonic()
        console.type(f"echo $((1000+{number}))-there")
        console.wait(f"^{1000 + number}-there$")
        worst = max(worst, time.monotonic() - begun)
    status = Path(f"/proc/{mkh}/status").read_text(encoding="ascii")
    memory = int(re.search(r"VmRSS:\s+(\d+) kB", status)[1]) >> 10  # type: ignore[index]
    print(f"echo after {worst:.2f} s at worst, {memory} MiB resident")
    assert memory < 300
    console.command("2")
    console.keys("C-c")
    console.type("echo calm")
    console.wait("^calm$")


def test_without_a_terminal_it_says_what_to_use() -> None:
    done = subprocess.run(
        [MKH, "console"], capture_output=True, text=True, stdin=subprocess.DEVNULL, check=False
    )
    assert done.returncode == 2
    assert "needs a terminal" in done.stderr
    assert "mkh demo" in done.stderr
