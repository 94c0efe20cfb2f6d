# SPDX-License-Identifier: MIT
"""A picture of a console: its bytes as a terminal would show them, and nothing that could drive one.

pyte interprets them; what leaves here are printable characters and colours. Sequences that pyte would
collect without end, or not survive, are taken out before.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable
from typing import Any

import pyte
from wcwidth import wcwidth

_STRINGS = re.compile(rb"\x1b[\]PX^_][^\x07\x1b\r\n]{0,256}(?:\x07|\x1b\\)?|\xc2[\x80-\x9f]")
"""Titles, the clipboard (OSC 52) and other strings for terminals; the one-byte forms of ESC sequences."""
_LONG = re.compile(rb"\x1b\[[\d;?]{33,}")
_UNFINISHED = re.compile(rb"\x1b(?:\[[\d;?]{0,32}|[\]PX^_][^\x07\x1b\r\n]{0,256})?\Z")
BACKLOG = 8 << 10
"""Bytes that are interpreted at once; of more only the last, as many as the picture can hold."""
_COLOURS = {
    name: number
    for number, name in enumerate(("black", "red", "green", "brown", "blue", "magenta", "cyan", "white"))
}
_HEX = re.compile(r"[0-9a-f]{6}")


def _tolerant(name: str) -> Callable[..., None]:
    inherited: Callable[..., None] = getattr(pyte.Screen, name)

    @functools.wraps(inherited)
    def call(self: pyte.Screen, *arguments: Any, **options: Any) -> None:
        try:
            inherited(self, *arguments, **options)
        except (TypeError, ValueError, IndexError, KeyError):
            # More parameters than pyte knows, a private form that it has not.
            return

    return call


class _Screen(pyte.Screen):  # type: ignore[misc, unused-ignore]
    """pyte's screen, which no sequence raises from."""

    locals().update({name: _tolerant(name) for name in pyte.Stream.events if name != "draw"})


class Picture:
    """What a terminal of ``columns`` by ``lines`` shows of a console."""

    def __init__(self, columns: int, lines: int) -> None:
        self._held = b""
        self._screen = _Screen(columns, lines)
        self._stream = pyte.ByteStream(self._screen)
        self.columns, self.lines = columns, lines

    def feed(self, data: bytes) -> None:
        """Interpret bytes."""
        data = self._held + data
        unfinished = _UNFINISHED.search(data)
        self._held = unfinished[0] if unfinished else b""
        data = _LONG.sub(b"", _STRINGS.sub(b"", data[: len(data) - len(self._held)]))
        for line in data.splitlines(keepends=True):
            try:
                self._stream.feed(line)
            except Exception:
                # The parser of pyte ends with what it raises. The rest of the line is in the transcript.
                self._stream.detach(self._screen)
                self._stream.attach(self._screen)
                self._stream.feed(b"\r\n")

    @property
    def cursor(self) -> tuple[int, int] | None:
        """Where the cursor is, column and line; None when it is hidden."""
        cursor = self._screen.cursor
        return None if cursor.hidden else (min(cursor.x, self.columns - 1), cursor.y)

    def line(self, number: int, *, colour: bool = True) -> str:
        """Return a line as text of ``columns`` columns with SGR sequences, and no others."""
        cells = self._screen.buffer[number]
        parts, style = [], ""
        for column in range(self.columns):
            cell = cells[column]
            wanted = _style(cell, colour)
            if wanted != style:
                parts.append(f"\x1b[0{wanted}m")
                style = wanted
            parts.append(shown(cell.data))
        return "".join(parts) + ("\x1b[0m" if style else "")

    def text(self) -> str:
        """Return what is shown, without colours."""
        return "\n".join(self.line(number, colour=False) for number in range(self.lines))


def shown(data: str) -> str:
    """Return a cell's text with whatever a terminal would not simply draw replaced; empty stays empty."""
    if data.isprintable():
        return data
    return "".join(one if one.isprintable() else "?" for one in data)


def cut(text: str, width: int) -> str:
    """Return ``text`` in exactly ``width`` columns; what is not one column wide is replaced."""
    if not text.isascii():
        # A character of two columns would move what is right of it.
        text = "".join(one if one.isprintable() and wcwidth(one) == 1 else "?" for one in text)
    return text[:width].ljust(width)


def plain(data: bytes) -> str:
    r"""Return a console's bytes as printable text with line ends (``\n``), for reading and searching."""
    text = _STRINGS.sub(b"", data).decode("utf-8", "replace")
    text = _CONTROL.sub("", text.expandtabs(8))
    return "".join(one if one == "\n" or one.isprintable() else "?" for one in text) if _odd(text) else text


_CONTROL = re.compile(r"\x1b(?:\[[0-9;?]*[ -/]*[@-~]|[@-_])|[\x00-\x09\x0b-\x1f\x7f-\x9f]")


def _odd(text: str) -> bool:
    return not text.isascii() and not text.replace("\n", "").isprintable()


def _style(cell: pyte.screens.Char, colour: bool) -> str:
    if cell.fg == cell.bg == "default" and not (cell.bold or cell.underscore or cell.reverse):
        return ""
    words = (";1" if cell.bold else "") + (";4" if cell.underscore else "") + (";7" if cell.reverse else "")
    return words + (_colour(cell.fg, 30) + _colour(cell.bg, 40) if colour else "")


def _colour(name: str, base: int) -> str:
    if name in _COLOURS:
        return f";{base + _COLOURS[name]}"
    if name.startswith("bright") and name[6:] in _COLOURS:
        return f";{base + 60 + _COLOURS[name[6:]]}"
    if _HEX.fullmatch(name):
        return f";{base + 8};2;{int(name[:2], 16)};{int(name[2:4], 16)};{int(name[4:], 16)}"
    return ""
