# SPDX-License-Identifier: MIT
"""Errors and warnings of real broken builds, each log provoked as its first line says."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from harness.build import messages
from harness.build.messages import Message

LOGS = Path(__file__).with_name("logs-build")


def of(name: str) -> list[Message]:
    return messages.read((LOGS / f"{name}.log").read_text(encoding="utf-8").splitlines())


@pytest.mark.parametrize(
    ("log", "tool", "place", "text"),
    [
        ("type-error", "gcc", "lib/bsearch.c:37:41", "invalid use of undefined type"),
        ("implicit-declaration", "gcc", "lib/bsearch.c:37:43", "implicit declaration of function"),
        ("missing-header", "gcc", "lib/bsearch.c:37:10", "linux/mkh_nosuch.h: No such file"),
        ("inline-assembler", "as", "lib/bsearch.c:37", "no such instruction"),
        ("assembler", "as", "arch/x86/lib/hweight.S:79", "no such instruction"),
        ("undefined-reference", "ld", "", "undefined reference to `mkh_nowhere'"),
        ("modpost-undefined", "modpost", "mkbad.ko", "symbol 'mkh_missing' undefined"),
        ("modpost-undefined-6.12", "modpost", "/home/user/module/mkbad.ko", '"mkh_missing"'),
        ("kconfig-error", "kconfig", "init/Kconfig:2371", "syntax error"),
        ("make-syntax", "make", "lib/Makefile:353", "missing separator"),
        ("no-rule", "make", "", "No rule to make target 'lib/mkh_nosuch.o'"),
        ("compiler-killed", "gcc", "", "Killed signal terminated program cc1"),
        ("disk-full", "gcc", "lib/vsprintf.c:3750:1", "No space left on device"),
    ],
)
def test_first_error_is_the_cause_with_its_place(log, tool, place, text):
    first = messages.errors(of(log))[0]
    assert (first.kind, first.tool, first.place) == ("error", tool, place or first.place)
    assert text in first.text


@pytest.mark.parametrize(
    ("log", "tool", "place", "text"),
    [
        ("unused-variable", "gcc", "lib/bsearch.c:41:13", "unused variable"),
        ("header-warning", "gcc", "include/linux/bsearch.h:33:12", "defined but not used"),
        ("objtool", "objtool", "lib/bsearch.o", "with UACCESS enabled"),
        ("modpost-warning", "modpost", "mkbad.ko", "section mismatch in reference"),
        ("kconfig-warnings", "kconfig", "init/Kconfig:2379", "defined without type"),
        ("kconfig-warnings", "kconfig", "", "unmet direct dependencies detected for MKH_NEEDS"),
    ],
)
def test_warning_has_tool_place_and_text(log, tool, place, text):
    found = [message for message in of(log) if message.kind == "warning" and text in message.text]
    assert found
    assert (found[-1].tool, found[-1].place) == (tool, place)


def test_what_belongs_to_a_message_is_kept_with_it():
    by_text = {message.text.partition(" ")[0]: str(message) for message in of("unused-variable")}
    assert "in expansion of macro ‘pr_info’" in by_text["format"]
    assert by_text["unused"].splitlines()[1:] == ["   41 |         int unused;", "      |             ^~~~~~"]
    unmet = next(message for message in of("kconfig-warnings") if "unmet" in message.text)
    assert any("Depends on [n]: MKH_NOSUCH" in line for line in unmet.lines)


@pytest.mark.parametrize("log", sorted(file.stem for file in LOGS.glob("*.log")))
def test_every_line_that_tells_of_trouble_is_in_a_message(log):
    text = (LOGS / f"{log}.log").read_text(encoding="utf-8")
    told = "\n".join(str(message) for message in of(log))
    for line in text.splitlines():
        if re.search(r"\berror\b|warning|\*\*\*|undefined", line, re.IGNORECASE) and line[:2] != "# ":
            plain = line.removeprefix("../").replace("[../", "[")
            assert plain in told or "being treated as errors" in line, line


def test_what_make_says_about_a_failed_command_is_no_cause():
    assert [error.tool for error in messages.errors(of("missing-header"))] == ["gcc"]
    only = messages.read(["make[1]: *** [Makefile:3: x] Error 1"])
    assert messages.errors(only) == only


def test_target_is_the_file_that_was_being_made():
    assert {message.target for message in of("header-warning")} == {
        "kernel/sched/rq-offsets.s",
        "lib/bsearch.o",
    }


@pytest.mark.parametrize(
    ("log", "touched", "its"),
    [
        ("unused-variable", "lib/bsearch.c", True),
        ("unused-variable", "lib/bcd.c", False),
        ("header-warning", "include/linux/bsearch.h", True),
        ("header-warning", "lib/bsearch.c", True),
        ("objtool", "lib/bsearch.c", True),
        ("objtool", "lib/bcd.c", False),
    ],
)
def test_warning_is_the_series_own_when_it_names_what_the_series_touches(log, touched, its):
    found = messages.split(of(log), {touched})
    assert bool(found.series) is its
    assert len(found.series) + len(found.others) == len([m for m in of(log) if m.kind == "warning"])


def test_warnings_are_said_in_few_lines():
    assert messages.Warnings().lines() == []
    many = messages.Warnings(series=tuple(of("unused-variable")) * 20)
    lines = many.lines(limit=2)
    assert lines[0] == "warnings of the build: 40 in what the series touches, 0 elsewhere"
    assert lines[-1].startswith("... and 38 more")


@pytest.mark.parametrize(
    "junk", ["", " ", ":::", "a:1:", "  CC", "\x00\xff", "make: ***", "error", "x" * 100_000]
)
def test_any_line_is_taken(junk):
    assert all(message.kind == "error" for message in messages.read([junk, junk]))
