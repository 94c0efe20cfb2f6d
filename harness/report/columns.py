# SPDX-License-Identifier: MIT
"""Several kernels' consoles side by side, as their lines come.

Lines are printed once and scroll away, so that the same view works on a terminal, in a log and in
a pager. The lines of all kernels share one clock.
"""

from __future__ import annotations

import re
import time
from collections.abc import Mapping, Sequence

from rich.console import Console as Display
from rich.table import Table
from rich.text import Text

from harness.vm.console import Console

_COLOURS = ("cyan", "yellow", "magenta", "green")
_ESCAPE = re.compile(r"\x1b(?:\[[0-9;?]*[ -/]*[@-~]|[@-_])")
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
_TIMESTAMP = re.compile(r"^\[ *\d+\.\d+\] ")


def printable(line: str) -> str:
    """Take out of a console line what would move a terminal's cursor. Console bytes are not trusted."""
    return _CONTROL.sub("", _ESCAPE.sub("", line.expandtabs(4)))


class Columns:
    """Prints one column per kernel; ``consoles`` gains an entry when a machine has one more.

    Times are seconds since this object was made.
    """

    def __init__(self, display: Display, consoles: Mapping[str, Console], names: Sequence[str]) -> None:
        self.display = display
        self.names = list(names)
        self._consoles = consoles
        self._started = time.monotonic()
        self._shown = dict.fromkeys(names, 0)

    def show(self, *, unfinished: bool = False) -> None:
        """Print what has come since the last call, in the order in which it came.

        A line that is not finished yet is left for later unless ``unfinished``.
        """
        new: list[tuple[float, str, str]] = []
        for name in self.names:
            if name not in self._consoles:
                continue
            console = self._consoles[name]
            lines = console.lines()
            end = len(lines) if unfinished or console.text.endswith("\n") else len(lines) - 1
            new += [(line.time - self._started, name, line.text) for line in lines[self._shown[name] : end]]
            self._shown[name] = max(end, self._shown[name])
        for when, name, text in sorted(new, key=lambda line: line[0]):
            self._row({name: f"{when:6.2f} {_TIMESTAMP.sub('', printable(text))}"})

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
        self.display.print(grid)
