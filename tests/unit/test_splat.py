# SPDX-License-Identifier: MIT
"""Splats in logs. ``logs/`` holds the corpus.

Each file begins with a comment: "real" (what a kernel printed, and how it was brought to it) or
"format" (written by hand), then one line for each splat that must be found and no other, then an
empty line, then the log, whose lines count from 0.
"""

from __future__ import annotations

import random
import re
import time
from functools import cache
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.klog.lines import stable
from harness.klog.splat import SPLATS_MAX, Reader, Severity, Splat, find_splats
from harness.klog.table import TABLE, WORDS, find_row

FILES = sorted((Path(__file__).parent / "logs").glob("*.log"))


@cache
def corpus(file: Path) -> tuple[list[str], bytes]:
    """Return what a file of the corpus expects, and its log as it came over a line."""
    head, _, log = file.read_bytes().partition(b"\n\n")
    origin, *expected = head.decode().splitlines()
    assert re.match(r"# (real|format): ", origin)
    return [line.removeprefix("# ") for line in expected], log.replace(b"\n", b"\r\n")


def summary(splats: tuple[Splat, ...]) -> list[str]:
    return [f"{s.first}-{s.last} {s.severity.name} {s.kind}: {s.title}" for s in splats]


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_the_corpus(file: Path) -> None:
    expected, log = corpus(file)
    splats = find_splats(log)
    assert summary(splats) == expected
    lines = log.split(b"\n")
    for splat in splats:
        assert not splat.open
        assert log[: splat.offset].endswith(b"\n") or splat.last == len(lines) - 1
        assert splat.line in splat.text
        assert "\r" not in splat.text
        assert "\x1b" not in splat.text


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_text_and_lines_are_as_good_as_bytes(file: Path) -> None:
    text = corpus(file)[1].decode("utf-8", "replace")
    by_text, by_lines = find_splats(text), find_splats(text.split("\n"))
    assert summary(by_text) == summary(by_lines) == corpus(file)[0]


def test_every_row_has_a_log() -> None:
    seen = {splat.kind for file in FILES for splat in find_splats(corpus(file)[1])}
    # These are seen within other splats only: a panic, an oops.
    assert {row.kind for row in TABLE} - seen <= {"no-init", "corrupted-stack", "kmsan", "stack-trace"}


def test_every_line_that_a_row_matches_has_a_word() -> None:
    for file in FILES:
        for line in corpus(file)[1].split(b"\n"):
            assert WORDS.search(line) or find_row(line.decode("utf-8", "replace")) is None, line


@settings(max_examples=60, deadline=None)
@given(file=st.sampled_from(FILES), data=st.data())
def test_a_stream_cut_anywhere_reads_as_the_whole(file: Path, data: st.DataObject) -> None:
    log = corpus(file)[1]
    cuts = data.draw(st.lists(st.integers(0, len(log)), max_size=30))
    reader = Reader()
    for start, stop in pairwise([0, *sorted(cuts), len(log)]):
        reader.feed(log[start:stop])
        _ = reader.splats
    assert reader.finish() == find_splats(log)


@pytest.mark.parametrize("name", ["torn", "interleaved", "lockdep-others"])
def test_a_stream_of_single_bytes_reads_as_the_whole(name: str) -> None:
    log = corpus(next(file for file in FILES if file.stem == name))[1]
    reader = Reader()
    for place in range(len(log)):
        reader.feed(log[place : place + 1])
    assert reader.finish() == find_splats(log)


@settings(max_examples=60, deadline=None)
@given(noise=st.binary(max_size=300), place=st.integers(0, 10_000), file=st.sampled_from(FILES))
def test_noise_breaks_nothing(noise: bytes, place: int, file: Path) -> None:
    log = corpus(file)[1]
    find_splats(log[:place] + noise + log[place:])


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 1 << 32))
def test_logs_one_after_another(seed: int) -> None:
    # Hours lie between two logs: as many splats come out as went in.
    files = random.Random(seed).sample([file for file in FILES if file.stem != "torn"], 4)
    count = len(find_splats(b"".join(corpus(file)[1] for file in files)))
    assert count == sum(len(corpus(file)[0]) for file in files)


def test_it_tells_as_soon_as_the_line_is_whole() -> None:
    reader = Reader()
    reader.feed(b"[    1.0] ------------[ cut here ]------------\r\n")
    reader.feed(b"[    1.0] WARNING: CPU: 0 PID: 1 at a.c:1 f+0x1/0x2")
    assert reader.splats == ()
    reader.feed(b"\r\n")
    (splat,) = reader.splats
    assert (splat.first, splat.last, splat.open, splat.severity) == (0, 1, True, Severity.REPORT)
    reader.feed(b"[    1.1] RIP: 0010:f+0x1/0x2\r\n[    1.2] ---[ end trace 0 ]---\r\n[    1.3] eth0: up\r\n")
    (splat,) = reader.splats
    assert (splat.first, splat.last, splat.open, splat.title) == (0, 3, False, "WARNING in f")


def test_what_comes_much_later_belongs_to_no_splat() -> None:
    log = "[    1.0] BUG: scheduling while atomic: sh/1/0x2\n[    1.1]  f+0x1/0x2\n[   60.0]  g+0x1/0x2\n"
    assert [splat.last for splat in find_splats(log)] == [1]


def test_warnings_without_end_fill_no_memory_and_hide_no_panic() -> None:
    warning = b"WARNING: CPU: 0 PID: 1 at a.c:1 f+0x1/0x2\n---[ end trace 0 ]---\n"
    splats = find_splats(warning * (SPLATS_MAX + 50) + b"Kernel panic - not syncing: enough\n")
    assert len(splats) == SPLATS_MAX + 1
    assert splats[-1].title == "Kernel panic: enough"


def test_a_flood_is_passed_over_quickly() -> None:
    flood = b"".join(b"[   12.345678] line %08d of a flood\r\n" % i for i in range(250_000))
    reader = Reader()
    started = time.process_time()
    for start in range(0, len(flood), 65536):
        reader.feed(flood[start : start + 65536])
    assert time.process_time() - started < 5
    assert reader.finish() == ()


@pytest.mark.parametrize(
    ("title", "plain"),
    [
        ("page fault in f+0x12/0x34", "page fault in f"),
        ("Attempted to kill init! exitcode=0x0000000b", "Attempted to kill init! exitcode=ADDR"),
        ("list at ffff888004a1c000  is broken.", "list at ADDR is broken"),
    ],
)
def test_titles_are_the_same_in_every_run(title: str, plain: str) -> None:
    assert stable(title) == plain
