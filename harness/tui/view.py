# SPDX-License-Identifier: MIT
"""The view: a tile for each kernel, one of which gets what is typed, and a status line.

Redrawing waits for the terminal and takes at most a part of a processor, whatever the kernels print.
"""

from __future__ import annotations

import time
from typing import Literal

from harness.tui.asking import Asker
from harness.tui.help import KEYS_LONG, KEYS_SHORT, KEYS_WAITING
from harness.tui.keyboard import PREFIX_NAME, Keyboard
from harness.tui.pager import Pager
from harness.tui.pane import Pane
from harness.tui.screen import cut
from harness.tui.source import Question, Source
from harness.tui.terminal import Place, Terminal
from harness.tui.tiles import LEAST_HEIGHT, LEAST_WIDTH, arrange

FRAME = 0.04
"""Seconds between two drawings at the least."""
SHARE = 4
"""For so many times as long as a drawing took there is none."""
IDLE = 0.5
"""Seconds after which the machine's state is looked at though nothing was printed."""
FRESH = 1.0
"""Seconds after which the table of vCPUs is asked for again."""
MONITOR_LINES = 5000
Outcome = Literal["quit", "detach", "go on", "end"]
"""How a view was left."""
Pieces = dict[tuple[int, int], str]
_MONITOR = "QEMU's monitor"


class View:
    """Shows ``source`` on ``terminal`` until it is left; ``run`` says how.

    ``own`` says that quitting ends the machine, ``waits`` that a test waits to go on. ``note`` is what
    the status line says beside the machine's state; any thread may set it, and wake the terminal.
    """

    def __init__(self, source: Source, terminal: Terminal, *, own: bool = True, waits: bool = False) -> None:
        self.source, self.terminal = source, terminal
        self.own, self.waits = own, waits
        self.note = ""
        self.chosen = source.kernels[0]
        self.zoomed = False
        self.outcome: Outcome | None = None
        self._panes = {kernel: Pane(source, kernel) for kernel in source.kernels}
        self._keyboard = Keyboard(self)
        self._asker = Asker(source, terminal.wake)
        self._title = ""
        self._overlay: Pager | None = None
        self._question: Question | None = None
        self._monitor: list[str] = []
        self._again = 0.0

    def run(self) -> Outcome:
        """Show it until the person leaves, or the terminal is gone."""
        self.source.watch(self.terminal.wake)
        due = 0.0
        try:
            while self.outcome is None:
                now = time.monotonic()
                idle = IDLE
                if now >= due:
                    self._draw()
                    drawn = time.monotonic()
                    due = drawn + max(FRAME, SHARE * (drawn - now))
                else:
                    idle = due - now
                typed = self.terminal.wait(idle)
                if typed is None:
                    return "quit"
                if typed:
                    self._keyboard.typed(typed)
            return self.outcome
        finally:
            self._asker.close()

    # Actions, for the keyboard.

    @property
    def window(self) -> Pager | None:
        """What is scrolled and searched: a window over all tiles, or the chosen tile where it looks back."""
        return self._overlay or self._panes[self.chosen].pager

    def choose(self, number: int) -> None:
        """Choose a kernel by its place, counted from 0."""
        self.chosen = self.source.kernels[number]
        self.terminal.resized = self.terminal.resized or self.zoomed

    def choose_next(self, step: int) -> None:
        """Choose the next kernel, or with -1 the one before."""
        kernels = self.source.kernels
        self.choose((kernels.index(self.chosen) + step) % len(kernels))

    def zoom(self) -> None:
        """Show the chosen kernel alone, or all."""
        self.zoomed = not self.zoomed
        self.terminal.resized = True

    def look_back(self) -> None:
        """Show what the chosen kernel has printed."""
        self._panes[self.chosen].look_back()

    def search(self, text: str, *, back: bool = True) -> None:
        """Search the window; an empty text is the last one."""
        if self.window is not None and not self.window.search(text, back=back):
            self.note = f"not found: {text or self.window.found}"

    def back(self) -> None:
        """Leave the window, or looking back."""
        if self._overlay is not None:
            self.close()
        else:
            self._panes[self.chosen].live()

    def close(self) -> None:
        """Close the window over the tiles, if any."""
        self._asker.forget()
        self._question = None
        if self._overlay is not None:
            self._overlay = None
            self.terminal.resized = True

    def show(self, title: str, text: str, *, at_end: bool = False) -> None:
        """Show a text in a window over the tiles; one of the same title keeps its place."""
        before = self._overlay if title == self._title and not at_end else None
        width, height = self._inside()
        lines = [cut(line, len(line)) for line in text.splitlines()]
        self._title, self._overlay = title, Pager(lines, width, height - 1, at_end=at_end)
        if before is not None:
            self._overlay.scroll_as(before)
        self.terminal.resized = True

    def show_monitor(self) -> None:
        """Show what QEMU's monitor has said."""
        hint = "a line for QEMU's monitor, such as: info mtree"
        self.show(_MONITOR, "\n".join(self._monitor) or hint, at_end=True)

    def ask(self, title: str, question: Question) -> None:
        """Ask about the machine, and show the answer under ``title``; in the status line without one."""
        self._question = question
        self._asker.ask(question, self._argument())
        if title:
            self.show(title, "asking ...")

    def ask_again(self) -> None:
        """Ask anew what the window shows."""
        if self._question is not None and not self._asker.pending:
            self._asker.ask(self._question, self._argument())

    def _argument(self) -> str:
        return str(self.terminal.size()[0]) if self._question == "map" else ""

    def ask_monitor(self, line: str) -> None:
        """Give QEMU's monitor a line."""
        self._question = "monitor"
        self._monitor.append(f"(qemu) {line}")
        self._asker.ask("monitor", line)

    def _take_answer(self) -> None:
        if self._question == "vcpus" and time.monotonic() >= self._again:
            self.ask_again()
            self._again = time.monotonic() + FRESH
        answer = self._asker.take()
        if answer is None:
            return
        if self._question == "monitor":
            self._monitor = [*self._monitor, *answer.splitlines()][-MONITOR_LINES:]
            self.show_monitor()
        elif self._question == "toggle":
            self.note = answer.splitlines()[0] if answer.startswith("error") else ""
        elif self._overlay is not None:
            self.show(self._title, answer)

    # What is shown.

    def _inside(self) -> tuple[int, int]:
        """Return the size of what is above the status line."""
        width, height = self.terminal.size()
        return width, height - 1

    def _draw(self) -> None:
        self._take_answer()
        width, height = self._inside()
        if self.terminal.resized:
            self.terminal.resized = False
            self.terminal.clear()
            self._lay_out(width, height)
        if width < LEAST_WIDTH or height < LEAST_HEIGHT:
            self.terminal.draw({(0, 0): "too small"[:width]}, None)
            return
        pieces: Pieces = {}
        cursor = self._tiles(pieces) if self._overlay is None else None
        if self._overlay is not None:
            pieces[0, 0] = f"\x1b[7m{cut(' ' + self._title, width)}\x1b[0m"
            rows = self._overlay.painted()
            for line in range(1, height):
                pieces[line, 0] = rows[line - 1]
        pieces[height, 0] = f"\x1b[7m{cut(self._status(width), width)}\x1b[0m"
        if self._keyboard.mode in {"search", "monitor"}:
            cursor = (min(len(self._line()), width - 1), height)
        self.terminal.draw(pieces, cursor)

    def _shown(self) -> tuple[str, ...]:
        return (self.chosen,) if self.zoomed else self.source.kernels

    def _lay_out(self, width: int, height: int) -> None:
        shown = self._shown()
        for kernel, tile in zip(shown, arrange(len(shown), width, height), strict=True):
            self._panes[kernel].place(tile)
        if self._overlay is not None:
            self._overlay.resize(width, height - 1)

    def _tiles(self, pieces: Pieces) -> Place | None:
        """Add the tiles' pieces; return where the cursor is."""
        bar = f"\x1b[2m{'│' if self.terminal.unicode else '|'}\x1b[0m"
        for kernel in self._shown():
            pane = self._panes[kernel]
            tile = pane.tile
            title = cut(f" {self.source.kernels.index(kernel) + 1} {kernel}{pane.remark()}", tile.width)
            pieces[tile.top, tile.left] = f"\x1b[{'7;1' if kernel == self.chosen else '2;7'}m{title}\x1b[0m"
            for line, text in enumerate(pane.rows(colour=self.terminal.colour), tile.top + 1):
                pieces[line, tile.left] = text
            for line in range(tile.top, tile.top + tile.height) if tile.left else ():
                pieces[line, tile.left - 1] = bar
        return self._panes[self.chosen].cursor

    def _line(self) -> str:
        before = "search: " if self._keyboard.mode == "search" else "(qemu) "
        return before + self._keyboard.text

    def _status(self, width: int) -> str:
        mode = self._keyboard.mode
        note = f"  {self.note}" if self.note else ""
        working = "  asking ..." if self._asker.pending else ""
        if mode in {"search", "monitor"}:
            return self._line()
        if mode == "confirming":
            return " quit, which ends this machine? q: yes, any other key: no"
        if mode == "command":
            waiting = KEYS_WAITING if self.waits else ""
            return (KEYS_LONG if width > len(KEYS_LONG) + len(waiting) else KEYS_SHORT) + waiting
        if self._overlay is not None:
            again = "  r again" if self._question in {"map", "vcpus"} else ""
            return f" arrows, Page Up/Down  / search  q back{again}{working}{note}"
        if self.window is not None:
            return f" looking back: arrows, Page Up/Down, Home/End  / search  n N older newer  q live{note}"
        leave = f"{PREFIX_NAME} ? keys  {PREFIX_NAME} d detach"
        leave += f"  {PREFIX_NAME} q quit" if self.own else ""
        left = f" {self.source.title}: {self.source.state()}{working}{note}"
        return f"{cut(left, max(width - len(leave) - 3, 0))}  {leave} "
