# SPDX-License-Identifier: MIT
"""Looking back: a long text in a window, wrapped, scrolled and searched."""

from __future__ import annotations

from collections.abc import Sequence

from harness.tui.screen import cut

_HIT, _SEEN = "\x1b[7m", "\x1b[1m"
"""How the line is marked where a search ended, and others that have what was searched for."""


class Pager:
    """A window of ``width`` columns and ``height`` lines on ``lines``, at first on the last of them.

    A line longer than the window is wide takes several of its rows. ``found`` is what was searched for
    last, in small letters.
    """

    def __init__(self, lines: Sequence[str], width: int, height: int, *, at_end: bool = True) -> None:
        self.lines = lines
        self.width, self.height = max(width, 1), max(height, 1)
        self.found = ""
        self.hit: int | None = None
        """The line where the last search ended."""
        # The first row that is shown: a line, and which of its rows.
        self._top = (0, 0)
        if at_end:
            self.scroll_to_end()

    def rows(self) -> list[tuple[str, int]]:
        """Return the rows that are shown: each one's text, and its line's number."""
        number, part = self._top
        rows: list[tuple[str, int]] = []
        while len(rows) < self.height and number < len(self.lines):
            line = self.lines[number]
            rows += [(line[at : at + self.width], number) for at in self._cuts(number)[part:]]
            number, part = number + 1, 0
        return rows[: self.height]

    def painted(self) -> list[str]:
        """Return the rows of the whole window, each of its width; what was searched for is marked."""
        painted = []
        for text, number in self.rows():
            fitting = cut(text, self.width)
            mark = _HIT if number == self.hit else _SEEN if self.found and self.found in text.lower() else ""
            painted.append(f"{mark}{fitting}\x1b[0m" if mark else fitting)
        return painted + [" " * self.width] * (self.height - len(painted))

    def scroll(self, rows: int) -> None:
        """Go on by so many rows, or back where negative."""
        number, part = self._top
        part += rows
        while part < 0 and number > 0:
            number -= 1
            part += len(self._cuts(number))
        while number < len(self.lines) - 1 and part >= len(self._cuts(number)):
            part -= len(self._cuts(number))
            number += 1
        self._top = min((number, max(part, 0)), self._last_top())

    def scroll_to_start(self) -> None:
        """Show the first lines."""
        self._top = (0, 0)

    def scroll_to_end(self) -> None:
        """Show the last lines."""
        self._top = self._last_top()

    def scroll_as(self, other: Pager) -> None:
        """Show the same place as another window, if there is one."""
        self._top = min(other._top, self._last_top())

    @property
    def at_end(self) -> bool:
        """Whether the last line is shown."""
        return self._top >= self._last_top()

    def resize(self, width: int, height: int) -> None:
        """Change the window's size; its first line stays."""
        self.width, self.height = max(width, 1), max(height, 1)
        self._top = min((self._top[0], 0), self._last_top())

    def search(self, text: str, *, back: bool = True) -> bool:
        """Show the next line with ``text``, in letters of any case; say whether there is one.

        An empty text is what was searched for last; without ``back`` the search goes on to what is newer.
        """
        self.hit = None if text else self.hit
        self.found = text.lower() or self.found
        if not self.found:
            return False
        if back:
            begin = len(self.lines) if self.hit is None else self.hit
            places = range(begin - 1, -1, -1)
        else:
            places = range(0 if self.hit is None else self.hit + 1, len(self.lines))
        hit = next((number for number in places if self.found in self.lines[number].lower()), None)
        if hit is None:
            return False
        self.hit = hit
        self._top = (hit, 0)
        self.scroll(-(self.height // 2))
        return True

    def _cuts(self, number: int) -> range:
        return range(0, max(len(self.lines[number]), 1), self.width)

    def _last_top(self) -> tuple[int, int]:
        number, left = len(self.lines), self.height
        while number > 0:
            number -= 1
            count = len(self._cuts(number))
            if count >= left:
                return number, count - left
            left -= count
        return 0, 0
