# SPDX-License-Identifier: MIT
"""The person's terminal: taken over for a while, and given back as it was however that ends.

Only what ``Terminal.draw`` composes is ever written to it. A guard process gives it back when this
process is killed.
"""

from __future__ import annotations

import fcntl
import os
import re
import select
import signal
import socket
import struct
import subprocess
import sys
import termios
import tty
from collections.abc import Mapping
from contextlib import suppress
from types import FrameType
from typing import Any, Self

from harness.errors import UsageError

_ENTER = "\x1b[?1049h\x1b[?7l\x1b[?25l\x1b[2J"
_LEAVE = "\x1b[0m\x1b[?7h\x1b[?25h\x1b[?1049l"
"""The other screen, no wrapping, no cursor; and back."""
_KEY = re.compile(rb"\x1b\[[0-9;]*[A-Za-z~]|\x1bO[A-Za-z]|[\xc0-\xff][\x80-\xbf]*|.", re.DOTALL)
KEYS: Mapping[bytes, str] = {
    b"\x1b[A": "up",
    b"\x1bOA": "up",
    b"\x1b[B": "down",
    b"\x1bOB": "down",
    b"\x1b[C": "right",
    b"\x1bOC": "right",
    b"\x1b[D": "left",
    b"\x1bOD": "left",
    b"\x1b[5~": "page up",
    b"\x1b[6~": "page down",
    b"\x1b[H": "home",
    b"\x1b[1~": "home",
    b"\x1bOH": "home",
    b"\x1b[F": "end",
    b"\x1b[4~": "end",
    b"\x1bOF": "end",
    b"\x1b": "escape",
    b"\r": "enter",
    b"\n": "enter",
    b"\x7f": "backspace",
    b"\x08": "backspace",
    b"\t": "tab",
}
Place = tuple[int, int]
"""Column and line, counted from 0."""


def require() -> None:
    """Raise UsageError where there is no terminal to draw on and read keys from."""
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        raise UsageError(
            "mkh console needs a terminal for input and output",
            advice="without one, `mkh demo` prints the consoles, `mkh map` the memory; ssh needs -t",
        )
    if os.environ.get("TERM", "dumb") == "dumb":
        raise UsageError(
            "mkh console needs a terminal that moves its cursor, and TERM says that this one does not",
            advice="set TERM as it is, such as TERM=xterm; `mkh demo` prints the consoles anywhere",
        )


def keys(data: bytes) -> list[bytes]:
    """Cut what was typed into keys, an escape sequence or a character each."""
    return _KEY.findall(data)


class Terminal:
    """The terminal, taken over as long as the ``with`` block lasts.

    ``resized`` is set when its size may have changed, or it has to be drawn anew. SIGTERM and SIGHUP
    end the block by SystemExit. ``wake`` may be called by any thread, to end a ``wait``.
    """

    def __init__(self) -> None:
        self.resized = True
        self.colour = "NO_COLOR" not in os.environ
        self.unicode = (sys.stdout.encoding or "").lower().replace("-", "") == "utf8"
        self._in, self._out = sys.stdin.fileno(), sys.stdout.fileno()
        self._drawn: dict[tuple[int, int], str] = {}
        self._cursor: Place | None = None
        self._woken = False
        self._handlers: dict[int, Any] = {}

    def __enter__(self) -> Self:
        sys.stdout.flush()
        self._before = termios.tcgetattr(self._in)
        self._wake_read, self._wake_write = socket.socketpair()
        self._wake_write.setblocking(False)
        self._guard = _guard(self._in)
        try:
            for number in (signal.SIGTERM, signal.SIGHUP):
                self._handlers[number] = signal.signal(number, _leave)
            for number in (signal.SIGWINCH, signal.SIGCONT):
                self._handlers[number] = signal.signal(number, self._again)
            self._take()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        # It may have hung up.
        with suppress(OSError, termios.error):
            os.write(self._out, _LEAVE.encode())
            termios.tcsetattr(self._in, termios.TCSAFLUSH, self._before)
        self._guard.kill()
        self._guard.wait()
        assert self._guard.stdin is not None
        self._guard.stdin.close()
        self._wake_read.close()
        self._wake_write.close()

    def size(self) -> tuple[int, int]:
        """Return columns and lines."""
        packed = fcntl.ioctl(self._out, termios.TIOCGWINSZ, bytes(8))
        lines, columns, _, _ = struct.unpack("HHHH", packed)
        return columns or 80, lines or 24

    def wake(self) -> None:
        """End a wait. Any thread may call it, any number of times."""
        if not self._woken:
            self._woken = True
            # It may be full, or closed already.
            with suppress(OSError):
                self._wake_write.send(b"\0")

    def wait(self, timeout: float | None) -> bytes | None:
        """Return what was typed: nothing after ``timeout`` seconds or a ``wake``, None at its end."""
        ready, _, _ = select.select([self._in, self._wake_read], [], [], timeout)
        if self._wake_read in ready:
            self._wake_read.recv(4096)
            self._woken = False
        if self._in not in ready:
            return b""
        try:
            return os.read(self._in, 4096) or None
        except OSError:
            return None

    def draw(self, pieces: Mapping[tuple[int, int], str], cursor: Place | None) -> None:
        """Show ``pieces`` of text, by line and column; only those that differ from the last ones are written.

        A piece always has the same width at the same place, until ``clear`` was called.
        """
        out = []
        for place, text in pieces.items():
            if self._drawn.get(place) != text:
                out.append(f"\x1b[{place[0] + 1};{place[1] + 1}H{text}")
        if not out and cursor == self._cursor:
            return
        self._drawn.update(pieces)
        self._cursor = cursor
        shape = f"\x1b[{cursor[1] + 1};{cursor[0] + 1}H\x1b[?25h" if cursor is not None else ""
        self._write("\x1b[?25l" + "".join(out) + shape)

    def clear(self) -> None:
        """Forget what was drawn: pieces have other places now."""
        self._drawn.clear()
        self._write("\x1b[0m\x1b[2J")

    def _write(self, text: str) -> None:
        data = text.encode("utf-8" if self.unicode else "ascii", "replace")
        while data:
            data = data[os.write(self._out, data) :]

    def _take(self) -> None:
        tty.setraw(self._in)
        self._write(_ENTER)

    def _again(self, number: int, frame: FrameType | None) -> None:
        self.resized = True
        if number == signal.SIGCONT:
            # A shell that stopped this has put the terminal back.
            self._take()
        self.wake()


def _leave(number: int, frame: FrameType | None) -> None:
    raise SystemExit(128 + number)


def _guard(terminal: int) -> subprocess.Popen[bytes]:
    """Start a process that gives the terminal back when this one ends without doing so."""
    saved = subprocess.run(["stty", "-g"], stdin=terminal, capture_output=True, text=True, check=True).stdout
    # A shell may have its own settings by then, which are not raw.
    script = 'read -r _; case $(stty -F "$1" -a) in *-opost*) stty -F "$1" "$2";; esac; printf %s "$3" >"$1"'
    return subprocess.Popen(
        ["sh", "-c", script, "guard", os.ttyname(terminal), saved.strip(), _LEAVE],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
