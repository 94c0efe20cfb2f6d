# SPDX-License-Identifier: MIT
"""Kernels that are spawned while their machine is looked at already."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from io import StringIO
from typing import TYPE_CHECKING

from rich.console import Console

from harness.errors import HarnessError
from harness.progress import Progress

if TYPE_CHECKING:
    from harness.lab import Lab
    from harness.tui.view import View


def start(lab: Lab, names: Sequence[str], view: View) -> None:
    """Spawn the kernels that are not there yet, in a thread; the view's status line tells of it."""
    # Steps would be drawn across the view.
    lab.progress = Progress(Console(file=StringIO(), force_terminal=False))
    there = {pair.spawned.name for pair in lab.pairs}
    missing = [name for name in names if name not in there]
    if missing:
        threading.Thread(target=_start, args=(lab, missing, view), name="starting", daemon=True).start()


def _start(lab: Lab, names: Sequence[str], view: View) -> None:
    try:
        for number, name in enumerate(names, 1):
            view.note = f"starting {name} ({number} of {len(names)})"
            view.terminal.wake()
            lab.pair(name)
        view.note = ""
    except HarnessError as error:
        view.note = error.what
    view.terminal.wake()
