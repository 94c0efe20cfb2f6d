# SPDX-License-Identifier: MIT
"""How a command is named in an error."""

from __future__ import annotations

from harness.vm.command import BRIEF, brief


def test_a_short_command_is_told_whole() -> None:
    assert brief("cat '/proc/kimage'") == "\"cat '/proc/kimage'\""


def test_of_many_lines_the_first_is_told() -> None:
    assert brief("mkctl calls 300 <<'END'\nmkdir x\nrmdir x\nEND\n") == (
        "\"mkctl calls 300 <<'END'\" (and 3 more lines)"
    )


def test_a_long_line_is_cut() -> None:
    assert brief("x" * 5000) == f"'{'x' * BRIEF}...'"


def test_an_empty_one() -> None:
    assert brief("") == "''"
