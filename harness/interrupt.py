# SPDX-License-Identifier: MIT
"""Ctrl-C: the first stops what runs and lets it clean up and report, the second ends at once."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterator
from types import FrameType
from typing import Any

STATUS = 130
"""Exit status of a command that was interrupted, as shells have it: 128 and the number of SIGINT."""

_asked = False
_workers: list[Any] = []
_stderr = 2
"""Standard error as it was: pytest puts a file in its place while a test runs."""


def install() -> None:
    """Have SIGINT raise KeyboardInterrupt once. A process told to ignore it (by nohup, by &) still does."""
    global _stderr  # noqa: PLW0603
    if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
        _stderr = os.dup(2)
        signal.signal(signal.SIGINT, _stop)


def asked() -> bool:
    """Say whether there was a Ctrl-C."""
    return _asked


@contextlib.contextmanager
def ignored() -> Iterator[None]:
    """Leave SIGINT to a program that is run in the foreground, such as a debugger."""
    before = signal.signal(signal.SIGINT, lambda number, frame: None)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _stop(number: int, frame: FrameType | None) -> None:
    global _asked  # noqa: PLW0603
    if _asked:
        kill_workers()
        # A live display has hidden the cursor.
        os.write(_stderr, b"\x1b[?25h\n" if os.isatty(_stderr) else b"")
        # What was started (QEMU, compilers) dies with this process: see harness.process.
        os._exit(STATUS)
    _asked = True
    os.write(_stderr, b"\ninterrupted: stopping; Ctrl-C once more ends at once\n")
    raise KeyboardInterrupt


def know_worker(node: Any) -> None:
    """Remember a process of pytest-xdist that shares the tests."""
    # There is no public way to a worker's process.
    _workers.append(node.gateway._io.popen)


def kill_workers() -> None:
    """Kill the processes that share the tests: pytest-xdist would wait ten seconds for each test to end."""
    for worker in _workers:
        with contextlib.suppress(ProcessLookupError):
            worker.kill()
