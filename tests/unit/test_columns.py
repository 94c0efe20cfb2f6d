# SPDX-License-Identifier: MIT
"""Consoles side by side: every line in its kernel's column, nothing moves the terminal's cursor."""

import io

from rich.console import Console

from harness.report.columns import Columns, printable


def test_lines_come_in_their_columns_and_in_order():
    out = io.StringIO()
    columns = Columns(Console(file=out, width=60), ["host", "alpha"])
    columns.feed("host", 0.5, "[    0.000000] Linux version 7.3.4")
    columns.feed("alpha", 1.25, "hello")
    columns.show()
    host, alpha = out.getvalue().splitlines()
    assert host.startswith("  0.50 Linux version 7.3.4")
    assert alpha[:30].strip() == ""
    assert alpha[30:].strip() == "1.25 hello"


def test_console_bytes_cannot_move_the_cursor():
    assert printable("a\x1b[2Jb\x1b]0;title\x07c\rd\x9b1m") == "ab0;titlecd1m"
