# SPDX-License-Identifier: MIT
"""What keys do in a view."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from harness.tui.help import HELP
from harness.tui.pager import Pager
from harness.tui.terminal import KEYS, keys

if TYPE_CHECKING:
    from harness.tui.view import View

PREFIX = b"\x1d"
PREFIX_NAME = "Ctrl-]"
_STEPS = {"up": -1, "down": 1}


class Keyboard:
    """Turns what is typed into a view's actions.

    ``mode`` says what the next key is: ``typing`` for the kernel or the window that is open, ``command``
    behind the prefix, ``search`` or ``monitor`` for the line ``text``, ``confirming`` an answer.
    """

    def __init__(self, view: View) -> None:
        self._view = view
        self.mode = "typing"
        self.text = ""

    def typed(self, data: bytes) -> None:
        """Take what was typed."""
        view = self._view
        view.note = ""
        if self.mode == "typing" and view.window is None and PREFIX not in data:
            view.source.type(view.chosen, data)
            return
        for key in keys(data):
            self._key(key, KEYS.get(key, ""))

    def _key(self, key: bytes, name: str) -> None:
        mode, view = self.mode, self._view
        if mode == "confirming":
            self.mode = "typing"
            if key in b"qy":
                view.outcome = "quit"
        elif mode == "command":
            self.mode = "typing"
            self._command(key, name)
        elif key == PREFIX:
            self.mode = "command"
        elif mode in {"search", "monitor"}:
            self._line(key, name)
        elif view.window is not None:
            self._scroll(view.window, key, name)
        else:
            view.source.type(view.chosen, key)

    def _command(self, key: bytes, name: str) -> None:
        view = self._view
        view.close()
        if key == PREFIX:
            view.source.type(view.chosen, PREFIX)
        elif key.isdigit() and 1 <= int(key) <= len(view.source.kernels):
            view.choose(int(key) - 1)
        elif key in COMMANDS:
            COMMANDS[key](self)
        elif name in COMMANDS_BY_NAME:
            COMMANDS_BY_NAME[name](self)
        elif name != "escape":
            view.note = f"no such key; {PREFIX_NAME} ? tells them"

    def _line(self, key: bytes, name: str) -> None:
        """Edit the line that is typed below the tiles."""
        view = self._view
        if name == "escape":
            if self.mode == "monitor":
                view.close()
            self.mode = "typing"
        elif name == "backspace":
            self.text = self.text[:-1]
        elif name == "enter":
            text, self.text = self.text, ""
            if self.mode == "monitor" and text:
                view.ask_monitor(text)
            elif self.mode == "search":
                self.mode = "typing"
                view.search(text)
        elif name in {"up", "down", "page up", "page down"} and view.window is not None:
            self._scroll(view.window, b"", name)
        else:
            letter = key.decode("utf-8", "ignore")
            self.text += letter if letter.isprintable() else ""

    def _scroll(self, window: Pager, key: bytes, name: str) -> None:
        view = self._view
        page = window.height - 1
        if name in _STEPS:
            window.scroll(_STEPS[name])
        elif name in {"page up", "page down"} or key == b" ":
            window.scroll(-page if name == "page up" else page)
        elif name == "home" or key == b"g":
            window.scroll_to_start()
        elif name == "end" or key == b"G":
            window.scroll_to_end()
        elif key == b"/":
            self.begin("search")
        elif key in b"nN":
            view.search("", back=key == b"n")
        elif key == b"r":
            view.ask_again()
        elif name in {"escape", "enter"} or key == b"q":
            view.back()

    def begin(self, mode: str) -> None:
        """Have a line typed."""
        self.mode, self.text = mode, ""

    # Commands, by their keys.

    def _next(self) -> None:
        self._view.choose_next(1)

    def _previous(self) -> None:
        self._view.choose_next(-1)

    def _zoom(self) -> None:
        self._view.zoom()

    def _look_back(self) -> None:
        self._view.look_back()

    def _search(self) -> None:
        self._view.look_back()
        self.begin("search")

    def _monitor(self) -> None:
        self._view.show_monitor()
        self.begin("monitor")

    def _map(self) -> None:
        self._view.ask("the machine's memory", "map")

    def _vcpus(self) -> None:
        self._view.ask("vCPUs", "vcpus")

    def _attach(self) -> None:
        self._view.ask("how to attach", "attach")

    def _toggle(self) -> None:
        self._view.ask("", "toggle")

    def _help(self) -> None:
        self._view.show("keys", HELP.format(prefix=PREFIX_NAME))

    def _redraw(self) -> None:
        self._view.terminal.resized = True

    def _detach(self) -> None:
        self._view.outcome = "detach"

    def _go_on(self) -> None:
        if self._view.waits:
            self._view.outcome = "go on"

    def _end(self) -> None:
        if self._view.waits:
            self._view.outcome = "end"

    def _quit(self) -> None:
        if self._view.own:
            self.mode = "confirming"
        else:
            self._view.outcome = "detach"


COMMANDS: Mapping[bytes, Callable[[Keyboard], None]] = {
    b"n": Keyboard._next,
    b"N": Keyboard._previous,
    b"z": Keyboard._zoom,
    b"s": Keyboard._look_back,
    b"/": Keyboard._search,
    b"m": Keyboard._monitor,
    b"p": Keyboard._map,
    b"v": Keyboard._vcpus,
    b"a": Keyboard._attach,
    b"c": Keyboard._toggle,
    b"?": Keyboard._help,
    b"l": Keyboard._redraw,
    b"d": Keyboard._detach,
    b"g": Keyboard._go_on,
    b"e": Keyboard._end,
    b"q": Keyboard._quit,
}
"""What follows the prefix; digits choose a kernel."""
COMMANDS_BY_NAME: Mapping[str, Callable[[Keyboard], None]] = {
    "tab": Keyboard._next,
    "right": Keyboard._next,
    "down": Keyboard._next,
    "left": Keyboard._previous,
    "up": Keyboard._previous,
    "page up": Keyboard._look_back,
}
