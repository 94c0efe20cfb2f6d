# SPDX-License-Identifier: MIT
"""Several kernels' consoles side by side, as their lines come.

Lines are printed once and scroll away, so that the same view works on a terminal, in a log and in
a pager. The lines of all kernels share one clock.
"""

from __future__ import annotations

import queue
import re
from collections.abc import Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

_COLOURS = ("cyan", "yellow", "magenta", "green")
_ESCAPE = re.compile(r"\x1b(?:\[[0-9;?]*[ -/]*[@-~]|[@-_])")
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
_TIMESTAMP = re.compile(r"^\[ *\d+\.\d+\] ")


def printable(line: str) -> str:
    """Take out of a console line what would move a terminal's cursor. Console bytes are not trusted."""
    return _CONTROL.sub("", _ESCAPE.sub("", line.expandtabs(4)))


class Columns:
    """Prints one column per kernel. ``feed`` may be called from any thread, ``show`` from one."""

    def __init__(self, console: Console, names: Sequence[str]) -> None:
        self.console = console
        self.names = list(names)
        self._lines: queue.SimpleQueue[tuple[str, float, str]] = queue.SimpleQueue()

    def feed(self, name: str, when: float, line: str) -> None:
        """Queue one line of kernel ``name``, seen ``when`` seconds after the start."""
        self._lines.put((name, when, line))

    def show(self) -> None:
        """Print the lines that are queued."""
        while not self._lines.empty():
            name, when, line = self._lines.get()
            self._row({name: f"{when:6.2f} {_TIMESTAMP.sub('', printable(line))}"})

    def header(self) -> None:
        """Print the kernels' names over their columns."""
        self._row({name: name.upper() for name in self.names}, style="bold")

    def _row(self, cells: dict[str, str], style: str = "") -> None:
        grid = Table.grid(expand=True, padding=(0, 1))
        for _ in self.names:
            grid.add_column(ratio=1, overflow="fold")
        grid.add_row(
            *(
                Text(cells.get(name, ""), style=style or _COLOURS[index % len(_COLOURS)])
                for index, name in enumerate(self.names)
            )
        )
        self.console.print(grid)
