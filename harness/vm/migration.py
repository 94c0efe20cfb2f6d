# SPDX-License-Identifier: MIT
"""A stopped QEMU's device state into a file, and from there into another QEMU.

Guest RAM stays where it is: with the capability ``x-ignore-shared`` the stream leaves out memory
that maps a file shared, and takes a third of a megabyte.
"""

from __future__ import annotations

import shlex
import time
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

from harness.errors import HarnessError
from harness.vm.qmp import Qmp, QmpError

TIMEOUT = 60.0
"""Seconds that a transfer may take; it takes some ten milliseconds."""
POLL = 0.002


class ForkError(HarnessError):
    """A frozen machine could not be resumed."""


def save(qmp: Qmp, path: Path) -> None:
    """Write the device state of a stopped machine to the new file ``path``. Raises QmpError."""
    part = path.with_name(f"{path.name}.part")
    # QEMU says that it is done when it has written to the pipe, not when all of that is in the file.
    command = f"cat >{shlex.quote(str(part))} && mv {shlex.quote(str(part))} {shlex.quote(str(path))}"
    _ignore_shared(qmp)
    qmp.execute("migrate", uri=f"exec:{command}")
    _completed(qmp)
    _until(path.exists, "the file of its state to be complete")


def load(qmp: Qmp, state: BinaryIO) -> None:
    """Take a ``state`` into a QEMU that was started with ``-incoming defer`` and inherited that file.

    The machine is then stopped where the other was. A QEMU that cannot take it in ends. Raises QmpError.
    """
    _ignore_shared(qmp)
    qmp.execute("migrate-incoming", uri=f"fd:{state.fileno()}")
    _completed(qmp)


def _ignore_shared(qmp: Qmp) -> None:
    wanted = [{"capability": "x-ignore-shared", "state": True}]
    qmp.execute("migrate-set-capabilities", capabilities=wanted)


def _completed(qmp: Qmp) -> None:
    def done() -> bool:
        answer = qmp.execute("query-migrate")
        status = answer.get("status", "none")
        if status in {"failed", "cancelled"}:
            raise QmpError(f"QEMU could not transfer its state: {answer.get('error-desc', status)}")
        return bool(status == "completed")

    _until(done, "QEMU's state to be transferred")


def _until(done: Callable[[], bool], what: str) -> None:
    limit = time.monotonic() + TIMEOUT
    while not done():
        if time.monotonic() > limit:
            raise QmpError(f"{TIMEOUT:.0f} s were not enough for {what}")
        time.sleep(POLL)
