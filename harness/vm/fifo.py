# SPDX-License-Identifier: MIT
"""Serial lines as pairs of pipes.

QEMU writes a serial line byte by byte and drops what its socket does not take at once: a guest that
prints while the computer is busy lost words (seen: a socket holds 278 single bytes, a pipe 65,536,
or a million when it is made larger).
"""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO, Self

from harness import process

PIPE_SIZE = 1 << 20
"""Bytes that a line can hold, where the system allows so much."""


class Fifos:
    """Named pipes for QEMU to open; the names are gone as soon as ``forget`` is called.

    ``path(line)`` is what QEMU's chardev ``pipe`` takes: it reads PATH.in and writes PATH.out.
    """

    def __init__(self, lines: Iterable[str]) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="lines-", dir=process.scratch()))
        for line in lines:
            for end in ("in", "out"):
                os.mkfifo(f"{self.path(line)}.{end}", 0o600)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.forget()

    def path(self, line: str) -> Path:
        """Return the path of a line for QEMU's command line."""
        return self._folder / line

    def open(self, line: str) -> tuple[BinaryIO, BinaryIO]:
        """Return our ends of a line, unbuffered: what QEMU writes, and what it reads."""
        # For reading alone, or we would never see that QEMU has closed its end.
        output = os.open(f"{self.path(line)}.out", os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        # A pipe opens for writing alone only when somebody already reads it.
        both = os.open(f"{self.path(line)}.in", os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
        for fd in (output, both):
            with suppress(OSError):
                fcntl.fcntl(fd, fcntl.F_SETPIPE_SZ, PIPE_SIZE)
        return os.fdopen(output, "rb", buffering=0), os.fdopen(both, "wb", buffering=0)

    def forget(self) -> None:
        """Remove the names; open ends stay usable."""
        shutil.rmtree(self._folder, ignore_errors=True)
