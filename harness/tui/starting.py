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


class Starter:
    """Spawns those of the kernels ``names`` that are not there yet, in a thread; a view tells of it."""

    def __init__(self, lab: Lab, names: Sequence[str]) -> None:
        # Steps would be drawn across the view.
        lab.progress = Progress(Console(file=StringIO(), force_terminal=False))
        self._lab = lab
        self._view: View | None = None
        self._note = ""
        there = {pair.spawned.name for pair in lab.pairs}
        missing = [name for name in names if name not in there]
        if missing:
            threading.Thread(target=self._start, args=(missing,), name="starting", daemon=True).start()

    def tell(self, view: View) -> None:
        """Have a view's status line tell of it from now on."""
        self._view = view
        view.note = self._note

    def _start(self, names: Sequence[str]) -> None:
        try:
            for number, name in enumerate(names, 1):
                self._say(f"starting {name} ({number} of {len(names)})")
                self._lab.pair(name)
            self._say("")
        except HarnessError as error:
            self._say(error.what)

    def _say(self, note: str) -> None:
        self._note = note
        if self._view is not None:
            self._view.note = note
            self._view.terminal.wake()
