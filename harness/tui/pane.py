# SPDX-License-Identifier: MIT
"""One kernel's tile: the picture of its console, or what it printed earlier."""

from __future__ import annotations

from harness.tui.pager import Pager
from harness.tui.screen import BACKLOG, Picture, plain
from harness.tui.source import RECENT, Source
from harness.tui.terminal import Place
from harness.tui.tiles import Tile


class Pane:
    """The tile of ``kernel``. ``pager`` is there while a person looks back."""

    def __init__(self, source: Source, kernel: str) -> None:
        self._source = source
        self.kernel = kernel
        self.tile = Tile(0, 0, 1, 2)
        self.picture = Picture(1, 1)
        self.pager: Pager | None = None
        self.skipped = 0
        """Bytes that came too fast to be shown; they can be looked back at."""
        self._taken = 0

    def place(self, tile: Tile) -> None:
        """Put it into ``tile``. The picture is made anew, of the last that was printed."""
        lines = tile.height - 1
        if self.pager is not None:
            self.pager.resize(tile.width, lines)
        if (tile.width, lines) != (self.picture.columns, self.picture.lines) or not self._taken:
            self._restart(tile.width, lines)
        self.tile = tile

    def rows(self, *, colour: bool) -> list[str]:
        """Return the lines below the title, each as wide as the tile, with what has come by now."""
        self._follow()
        if self.pager is None:
            return [self.picture.line(number, colour=colour) for number in range(self.picture.lines)]
        return self.pager.painted()

    @property
    def cursor(self) -> Place | None:
        """Where the kernel's cursor is on the terminal, None where it is not shown."""
        if self.pager is not None or self.picture.cursor is None:
            return None
        column, line = self.picture.cursor
        return self.tile.left + column, self.tile.top + 1 + line

    def remark(self) -> str:
        """Return what its title says beside its name."""
        if self.pager is not None:
            return f"  [{len(self.pager.lines):,} lines]"
        if not self._source.size(self.kernel):
            return "  (it has not printed yet)"
        return f"  [{self.skipped >> 10:,} KiB went by]" if self.skipped else ""

    def look_back(self) -> None:
        """Show what was printed, and stay there while more comes."""
        if self.pager is None:
            end = self._source.size(self.kernel)
            data = self._source.read(self.kernel, max(0, end - RECENT), end)
            self.pager = Pager(plain(data).split("\n"), self.tile.width, self.tile.height - 1)

    def live(self) -> None:
        """Show what comes."""
        self.pager = None

    def _follow(self) -> None:
        end = self._source.size(self.kernel)
        if end - self._taken > BACKLOG:
            self.skipped += end - self._taken
            self._restart(self.picture.columns, self.picture.lines)
        else:
            if end > self._taken:
                self.skipped = 0 if end - self._taken < BACKLOG // 8 else self.skipped
            self.picture.feed(self._source.read(self.kernel, self._taken, end))
            self._taken = end

    def _restart(self, columns: int, lines: int) -> None:
        """Make the picture of the last that was printed: so a change of its size wraps lines anew."""
        self.picture = Picture(columns, lines)
        end = self._source.size(self.kernel)
        # Most lines are not full, and a picture's bytes may be colours.
        start = max(0, end - min(2 * columns * lines, BACKLOG))
        data = self._source.read(self.kernel, start, end)
        self.picture.feed(data.partition(b"\n")[2] if start else data)
        self._taken = end
