# SPDX-License-Identifier: MIT
"""Consoles side by side: every line in its kernel's column, nothing moves the terminal's cursor."""

import io
import time
from types import SimpleNamespace

from rich.console import Console as Display

from harness.report.columns import Columns, printable
from harness.vm.console import Line


def a_console(*lines, text="\n"):
    """Stand in for a console that has printed these lines."""
    return SimpleNamespace(lines=lambda: list(lines), text=text)


def shown(consoles, **options):
    out = io.StringIO()
    Columns(Display(file=out, width=60), consoles, ["host", "alpha"]).show(**options)
    return out.getvalue().splitlines()


def test_lines_come_in_their_columns_in_the_order_of_their_times(monkeypatch):
    # Columns count from when they were made, which on a busy computer is late: here the clock stands still.
    monkeypatch.setattr("harness.report.columns.time", SimpleNamespace(monotonic=lambda: 100.0))
    host = a_console(Line(100.5, "[    0.000000] Linux version 7.3.4"), Line(102.0, "later"))
    first, second, third = shown({"host": host, "alpha": a_console(Line(101.25, "hello"))})
    assert "Linux version 7.3.4" in first
    assert first.split()[0] == "0.50"
    assert "[" not in first, "the kernel's own time stamp is left out"
    assert second[:30].strip() == ""
    assert second.split() == ["1.25", "hello"]
    assert "later" in third


def test_an_unfinished_line_waits_for_its_end():
    prompt = a_console(Line(time.monotonic(), "host# "), text="host# ")
    assert shown({"host": prompt}) == []
    assert len(shown({"host": prompt}, unfinished=True)) == 1


def test_console_bytes_cannot_move_the_cursor():
    assert printable("a\x1b[2Jb\x1b]0;title\x07c\rd\x9b1m") == "ab0;titlecd1m"
