# SPDX-License-Identifier: MIT
"""Hunks are found where GNU patch finds them, and what ``diff -u`` wrote gives the file it was made from."""

from __future__ import annotations

import re
import subprocess
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.build.apply import Applied, apply_series
from harness.build.diff import Hunk
from harness.build.place import Place, place
from harness.build.series import Patch, Series
from harness.build.source import Source

LINE = st.sampled_from(["", "{", "}", "\treturn 0;", "int f(void)", "a", "b", "c", "\tx = 1;", "\r"])
FILE = st.lists(LINE, max_size=40)
EDITS = st.lists(st.tuples(st.integers(0, 40), st.integers(0, 3), st.lists(LINE, max_size=3)), max_size=4)
_SAID = re.compile(
    r"Hunk #(\d+) (succeeded|FAILED) at (\d+)(?: with fuzz (\d))?(?: \(offset (-?\d+) lines?\))?"
)


def edited(lines: list[str], edits: list[tuple[int, int, list[str]]]) -> list[str]:
    lines = list(lines)
    for at, gone, new in edits:
        lines[at : at + gone] = new
    return lines


def text(lines: list[str], *, ended: bool = True) -> bytes:
    return ("\n".join(lines) + "\n" * (ended and bool(lines))).encode()


def diff(folder: Path, before: bytes, after: bytes, context: int) -> bytes:
    (folder / "old").write_bytes(before)
    (folder / "new").write_bytes(after)
    said = subprocess.run(
        ["diff", f"-U{context}", "--label=a/f", "--label=b/f", "old", "new"],
        cwd=folder, capture_output=True, check=False,
    )  # fmt: skip
    assert said.returncode < 2
    return said.stdout


def applied(folder: Path, content: bytes, patch: bytes, fuzz: int) -> Applied:
    (folder / "f").write_bytes(content)
    return apply_series(Source("path", "s", "d", folder), Series(None, (Patch("p", "p", patch),)), fuzz)


@settings(max_examples=150, deadline=None)
@given(FILE, EDITS, st.integers(0, 3), st.booleans(), st.booleans())
def test_what_diff_wrote_applies_cleanly_and_gives_the_same_file(lines, edits, context, ended, still_ended):
    with tempfile.TemporaryDirectory() as name:
        before, after = text(lines, ended=ended), text(edited(lines, edits), ended=still_ended)
        patch = diff(Path(name), before, after, context)
        result = applied(Path(name), before, patch, 0)
        assert all(not report.unclean for report in result.report)
        if patch:
            file = result.files["f"]
            assert file is not None
            assert file.content == after


@settings(max_examples=150, deadline=None)
@given(st.lists(st.integers(0, 9), max_size=20), EDITS, st.integers(1, 30))
def test_what_moved_as_a_whole_is_found_with_its_offset(numbers, edits, shift):
    lines = [f"line {number} of {at}" for at, number in enumerate(numbers)] + ["the", "last", "lines"]
    changed = edited(lines[:-3], edits) + lines[-3:]
    above = [f"above {n}" for n in range(shift)]
    with tempfile.TemporaryDirectory() as name:
        # A change in the first lines ties its hunk to the file's beginning; so nothing changes there.
        fixed = ["one", "two", "three"]
        patch = diff(Path(name), text(fixed + lines), text(fixed + changed), 3)
        result = applied(Path(name), text(above + fixed + lines), patch, 0)
        for report in result.report:
            assert {hunk.offset for hunk in report.unclean} <= {shift}
            assert set(report.hunks) <= {"offset"}
        if patch:
            file = result.files["f"]
            assert file is not None
            assert file.content == text(above + fixed + changed)


FEW = st.lists(st.sampled_from("abc"), min_size=12, max_size=40)
SOME = st.lists(
    st.tuples(st.integers(0, 40), st.integers(0, 2), st.lists(st.sampled_from("abx"), max_size=2)),
    min_size=1,
    max_size=4,
)


@settings(max_examples=400, deadline=None)
@given(FEW, SOME, SOME, st.integers(0, 3))
def test_other_files_are_patched_as_gnu_patch_does_it(lines, edits, others, fuzz):
    """The patch is made for one file and applied to a relative of it; many places look alike."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        other = text(edited(lines, others))
        patch = diff(folder, text(lines), text(edited(lines, edits)), 3)
        if not patch:
            return
        result = applied(folder, other, patch, fuzz)
        file = result.files["f"]
        options = ["--forward", "--verbose", "--batch", "--binary", "-r-", "-oout"]
        said = subprocess.run(
            ["patch", "-p1", f"--fuzz={fuzz}", *options],
            cwd=folder, input=patch, capture_output=True, check=False,
        )  # fmt: skip
        theirs = said.stdout.decode()
        if "Reversed" in theirs or "ignored" in theirs:
            return
        assert file is not None
        assert (folder / "out").read_bytes() == file.content, theirs
        mine = {h.hunk: (h.outcome == "rejected", h.fuzz, h.offset) for h in result.report[0].unclean}
        for match in _SAID.finditer(theirs):
            number, failed = int(match[1]), match[2] == "FAILED"
            want = (failed, 0, 0) if failed else (False, int(match[4] or 0), int(match[5] or 0))
            assert mine.get(number, (False, 0, 0)) == want, theirs


@pytest.mark.parametrize(("start", "found"), [(3, 2), (5, 2), (6, 8), (7, 8), (9, 8), (40, 8)])
def test_of_places_alike_the_nearest_is_taken_and_of_two_the_later(start, found):
    lines = [b"a\n" if at in (2, 8) else b"%d\n" % at for at in range(11)]
    (where,) = place(lines, [Hunk(start, "", (b"-a\n", b"+b\n"))], 0)
    assert where == Place(found, found - start + 1, 0, 0, 0)
