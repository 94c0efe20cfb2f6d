# SPDX-License-Identifier: MIT
"""`mkh console` at the other end of a real ssh connection, looked at in tmux on this one."""

from __future__ import annotations

import getpass
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from tmux import PATIENCE, SHELL, Tmux, assert_gone, assert_sane, console_words, opened, pids

from harness import process
from harness.build import Build

SSHD = shutil.which("sshd", path=f"{os.environ['PATH']}:/usr/sbin:/sbin")
SEPARATION = Path("/run/sshd")
"""sshd wants it where root starts it."""
pytestmark = [
    pytest.mark.skipif(SSHD is None, reason="sshd is not installed (apt-get install openssh-server)"),
    pytest.mark.skipif(shutil.which("ssh") is None, reason="ssh is not installed"),
]


class Far:
    """sshd on a port of this computer that only the key in ``folder`` opens."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        for name in ("host", "mine"):
            words = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(folder / name)]
            subprocess.run(words, check=True)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        (folder / "config").write_text(
            f"Port {self.port}\nListenAddress 127.0.0.1\nHostKey {folder}/host\nPidFile none\n"
            f"AuthorizedKeysFile {folder}/mine.pub\nStrictModes no\nUsePAM no\n"
            "PasswordAuthentication no\nPermitRootLogin prohibit-password\n"
        )

    @property
    def words(self) -> list[str]:
        """The command line of ssh, up to what is run there."""
        options = ["StrictHostKeyChecking=no", f"UserKnownHostsFile={self.folder}/known", "LogLevel=ERROR"]
        words = ["ssh", "-F", "none", "-tt", "-p", str(self.port), "-i", str(self.folder / "mine")]
        return [*words, *(word for one in options for word in ("-o", one)), f"{getpass.getuser()}@127.0.0.1"]


@pytest.fixture
def far(tmp_path: Path) -> Iterator[Far]:
    if os.geteuid() == 0:
        SEPARATION.mkdir(mode=0o755, exist_ok=True)
    far = Far(tmp_path)
    with (
        (tmp_path / "sshd.log").open("wb") as log,
        process.running([str(SSHD), "-D", "-e", "-f", str(tmp_path / "config")], stderr=log) as sshd,
    ):
        limit = time.monotonic() + PATIENCE
        while True:
            assert sshd.poll() is None, (tmp_path / "sshd.log").read_text()
            try:
                socket.create_connection(("127.0.0.1", far.port), 5).close()
            except ConnectionRefusedError:
                assert time.monotonic() < limit
                time.sleep(0.1)
            else:
                break
        yield far


class FarTmux(Tmux):
    """A terminal with ssh in it, and behind that a shell with the prompt ``far>``."""

    def __init__(self, folder: Path, far: Far) -> None:
        super().__init__(folder)
        self.wait("^ok>")
        kept = [f"{name}={os.environ[name]}" for name in ("PATH", "HOME", "LANG") if name in os.environ]
        kept += (
            [f"MKHARNESS_CACHE={os.environ['MKHARNESS_CACHE']}"] if "MKHARNESS_CACHE" in os.environ else []
        )
        there = shlex.join(["env", "-i", *kept, "TERM=screen", "PS1=far> "]) + SHELL.removeprefix("env -i")
        self.type("clear; exec " + shlex.join([*far.words, there]))
        self.prompt = "far>"
        self.wait("^far>")
        self.type("clear; echo shell $$ at $(tty)")
        said = re.search(r"^shell (\d+) at (\S+)$", self.wait(r"^shell \d+ at /"), re.MULTILINE)
        assert said is not None
        self._shell, self._tty = int(said[1]), said[2]

    @property
    def ssh(self) -> int:
        """The process id of ssh on this side."""
        return super().shell

    @property
    def shell(self) -> int:
        return self._shell

    @property
    def tty(self) -> str:
        return self._tty


@pytest.fixture
def console(tmp_path: Path, far: Far, build: Build, request: pytest.FixtureRequest) -> Iterator[FarTmux]:
    """A console of the kernel under test, over ssh."""
    if shutil.which("tmux") is None:
        pytest.skip("tmux is not installed")
    terminal = FarTmux(tmp_path, far)
    # A connection that was killed leaves nothing to show.
    terminal.run("set-option", "remain-on-exit", "on")
    try:
        opened(terminal, console_words(build, request.config))
        yield terminal
    finally:
        terminal.run("kill-server")


def test_a_console_is_driven_resized_and_left(console: FarTmux) -> None:
    _, qemu = pids(console)
    console.type("echo $((40+2))-$(hostname)")
    console.wait("^42-host")
    console.command("2")
    console.type("echo $((40+3))-$(hostname)")
    console.wait("43-alpha")
    # The window's size comes through ssh.
    for width, height in ((72, 20), (130, 40)):
        console.run("resize-window", "-x", str(width), "-y", str(height))
        screen = console.wait(rf"\A 1 host\b(.*\n){{{height - 1}}}.*Ctrl-\] d detach")
        assert "43-alpha" in screen
        assert _columns(console) == width
    console.command("d")
    console.wait("q: end the machine >")
    assert not console.other_screen
    console.type("q")
    console.wait("^status 0$")
    assert_sane(console)
    assert_gone(qemu)


def _columns(console: Tmux) -> int:
    done = subprocess.run(["stty", "-F", console.tty, "size"], capture_output=True, text=True, check=True)
    return int(done.stdout.split()[1])


@pytest.mark.parametrize("end", ["here", "there"])
def test_a_connection_that_is_killed_ends_the_console_and_its_machine(console: FarTmux, end: str) -> None:
    mkh, qemu = pids(console)
    shell = console.shell
    os.kill(console.ssh if end == "here" else _parent(shell), signal.SIGKILL)
    assert_gone(mkh)
    assert_gone(qemu)
    assert_gone(shell)


def _parent(pid: int) -> int:
    status = Path(f"/proc/{pid}/status").read_text(encoding="ascii")
    found = re.search(r"^PPid:\s+(\d+)$", status, re.MULTILINE)
    assert found is not None
    return int(found[1])
