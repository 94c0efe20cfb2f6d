# SPDX-License-Identifier: MIT
"""Starting programs that end when the harness ends, however it ends.

A harness killed with SIGKILL runs no clean-up code, so the kernel has to do it: ``setpriv`` asks
for a signal to the child when its parent dies. Two traps: that signal comes when the parent
*thread* dies, so every child is started by one thread that lives as long as the process; and the
child's own children do not inherit it, so ``running`` adds a guard process that reads from a pipe
of the harness and kills the whole process group when the pipe breaks.
"""

from __future__ import annotations

import contextlib
import functools
import os
import signal
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from harness.errors import HarnessError

GRACE = 5.0
"""Seconds that a process group has between SIGTERM and SIGKILL."""

_spawner: ThreadPoolExecutor | None = None


def _forget_spawner() -> None:
    """Drop the spawning thread in a forked child, which has no threads but its own."""
    global _spawner  # noqa: PLW0603
    _spawner = None


os.register_at_fork(after_in_child=_forget_spawner)


def popen(argv: Sequence[str | os.PathLike[str]], **options: Any) -> subprocess.Popen[bytes]:
    """Start ``argv`` in a process group of its own; it gets SIGKILL when the harness dies.

    ``options`` are subprocess.Popen's. The pid is the program's own and its group's number. For a
    program that starts others, use ``running``. Raises HarnessError when it cannot be started.
    """
    global _spawner  # noqa: PLW0603
    if _spawner is None:
        _spawner = ThreadPoolExecutor(max_workers=1, thread_name_prefix="spawner")
    words = [os.fspath(word) for word in argv]
    options.setdefault("start_new_session", True)
    command = ["setpriv", "--pdeathsig", "SIGKILL", "--", *words]
    try:
        return _spawner.submit(_start, command, options).result()
    except OSError as error:
        raise HarnessError(
            f"cannot start {words[0]}: {error}", advice="install util-linux (setpriv); see `make setup`"
        ) from None


def _start(command: list[str], options: dict[str, Any]) -> subprocess.Popen[bytes]:
    return subprocess.Popen(command, **options)


@contextmanager
def running(argv: Sequence[str | os.PathLike[str]], **options: Any) -> Iterator[subprocess.Popen[bytes]]:
    """Start ``argv`` as ``popen`` does and end its whole process group on leaving the block.

    The group also ends when the harness is killed, grandchildren included. On leaving while the
    program still runs, the group gets SIGTERM, then SIGKILL after GRACE seconds.
    """
    child = popen(argv, **options)
    guard = subprocess.Popen(
        ["sh", "-c", 'read -r _; kill -KILL "-$1"', "guard", str(child.pid)],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        yield child
    finally:
        end(child)
        guard.kill()
        assert guard.stdin is not None
        guard.stdin.close()
        guard.wait()


@functools.cache
def scratch() -> Path:
    """Return this process's folder for short-lived files, gone when the process is, however it ends.

    What is in it is removed by a guard process, a moment later.
    """
    folder = tempfile.mkdtemp(prefix="mkh-")
    guard = subprocess.Popen(
        ["sh", "-c", 'read -r _; rm -rf -- "$1"', "guard", folder],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    _guards.append(guard)
    return Path(folder)


_guards: list[subprocess.Popen[bytes]] = []
"""Kept, since a guard acts when the other end of its pipe is closed."""


def end(child: subprocess.Popen[bytes], grace: float = GRACE) -> None:
    """End a process group started by ``popen``: SIGTERM, and SIGKILL after ``grace`` seconds.

    What the program left running in its group is killed as well. Does nothing harmful when all
    have ended already.
    """
    if child.poll() is None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child.pid, signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            child.wait(grace)
    # Stragglers keep the group's number in use, so it cannot have become somebody else's.
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(child.pid, signal.SIGKILL)
    child.wait()
