# SPDX-License-Identifier: MIT
"""The parts of `mkh console`: pictures of consoles, windows on them, tiles, what is asked."""

import re
import threading
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.errors import HarnessError
from harness.tui.asking import Asker
from harness.tui.pager import Pager
from harness.tui.pane import Pane
from harness.tui.screen import Picture, cut, plain
from harness.tui.terminal import keys
from harness.tui.tiles import Tile, arrange

SGR = re.compile(r"\x1b\[[0-9;]*m")


class Printed:
    """A machine whose kernels have printed bytes that the test chose."""

    title = "test"

    def __init__(self, **consoles: bytes) -> None:
        self.consoles = consoles
        self.kernels = tuple(consoles)

    def size(self, kernel):
        return len(self.consoles[kernel])

    def read(self, kernel, start, end=None):
        return self.consoles[kernel][start:end]

    def ask(self, question, argument=""):
        if question == "map":
            raise HarnessError("no map")
        time.sleep(0.05)
        return f"{question} {argument}"


def picture(data: bytes, columns: int = 20, lines: int = 4) -> Picture:
    made = Picture(columns, lines)
    made.feed(data)
    return made


def test_a_picture_has_what_was_printed_with_its_colours():
    made = picture(b"plain\r\n\x1b[1;31mred\x1b[0m\r\n")
    assert made.line(0) == "plain".ljust(20)
    assert made.line(1) == "\x1b[0;1;31mred\x1b[0m" + " " * 17
    assert made.line(1, colour=False) == "\x1b[0;1mred\x1b[0m" + " " * 17
    assert made.cursor == (0, 2)


@pytest.mark.parametrize(
    "nasty",
    [
        b"\x1b]2;title\x07",
        b"\x1b]52;c;ZXZpbA==\x1b\\",
        b"\x1bPq#0;2;0;0;0\x1b\\",
        b"\x1b[6n",
        b"\x1b[?1000h",
        b"\xc2\x9d2;title\x07",
        b"\x1b[1;2;3;4A",
        b"\x1b[>4;1m",
        b"\x1b[" + b"9" * 5000 + b"A",
        b"\x1b[\xc2\xb2A",
        b"\x1b]2;" + b"endless" * 20,
        b"\xff\xfe",
    ],
)
def test_nothing_that_drives_a_terminal_leaves_a_picture(nasty):
    made = picture(b"before" + nasty + b"\r\nafter", 60, 6)
    lines = "".join(made.line(number) for number in range(6))
    assert not re.search(r"[\x00-\x1f\x7f-\x9f]", SGR.sub("", lines))
    assert "before" in made.text()
    assert "after" in made.text()


@given(st.lists(st.binary(max_size=40) | st.sampled_from([b"\x1b[", b"\x1b]", b"?", b"12;", b"m", b"\x1bc"])))
def test_no_bytes_break_a_picture(pieces):
    made = Picture(12, 3)
    for piece in pieces:
        made.feed(piece)
    for number in range(3):
        text = SGR.sub("", made.line(number))
        assert text.replace("\x1b", "!").isprintable()
    made.feed(b"\x1bc\r\n\x18\x07alive")
    assert "alive" in made.text().replace("\n", "")


def test_a_sequence_that_comes_in_two_pieces_is_one():
    made = picture(b"a\x1b]2;ti")
    made.feed(b"tle\x07b\x1b[3")
    made.feed(b"1mc")
    assert made.line(0, colour=False).startswith("abc")


def test_what_is_cut_is_as_wide_as_was_asked():
    assert cut("abc", 5) == "abc  "
    assert cut("abcdef", 5) == "abcde"
    assert cut("a界b\u202ec", 6) == "a?b?c "


def test_plain_text_has_lines_and_no_sequences():
    assert plain(b"\x1b[1mA\x1b[0m\r\n\tB\x07\x1b]0;t\x07C") == "A\n        BC"


def test_a_window_wraps_scrolls_and_searches():
    pager = Pager([f"line {number}" for number in range(100)] + ["x" * 25], 10, 5)
    assert [text for text, _ in pager.rows()] == ["line 98", "line 99", "x" * 10, "x" * 10, "x" * 5]
    assert pager.at_end
    pager.scroll(-3)
    assert pager.rows()[0] == ("line 95", 95)
    pager.scroll_to_start()
    assert pager.rows()[0] == ("line 0", 0)
    assert pager.search("LINE 4")
    assert pager.hit == 49
    assert pager.search("")
    assert pager.hit == 48
    assert pager.search("", back=False)
    assert pager.hit == 49
    assert not pager.search("nowhere")
    pager.scroll(1000)
    assert pager.at_end


@given(
    st.lists(st.text(alphabet="ab", max_size=30), max_size=30),
    st.integers(1, 12),
    st.integers(1, 9),
    st.lists(st.integers(-40, 40), max_size=10),
)
def test_a_window_shows_what_is_there_wherever_it_is(lines, width, height, moves):
    pager = Pager(lines, width, height)
    rows = [line[at : at + width] for line in lines for at in range(0, max(len(line), 1), width)]
    place = max(len(rows) - height, 0)
    for move in moves:
        pager.scroll(move)
        place = min(max(place + move, 0), max(len(rows) - height, 0))
        assert [text for text, _ in pager.rows()] == rows[place : place + height]


@pytest.mark.parametrize("count", [1, 2, 3, 4, 9])
@pytest.mark.parametrize(("width", "height"), [(80, 23), (120, 39), (200, 49), (20, 5)])
def test_tiles_fill_the_terminal_and_do_not_overlap(count, width, height):
    if (count, width) == (9, 20):
        pytest.skip("too small for nine")
    seen = set()
    for tile in arrange(count, width, height):
        assert tile.width >= 1
        cells = {
            (column, line)
            for column in range(tile.left, tile.left + tile.width)
            for line in range(tile.top, tile.top + tile.height)
        }
        assert not cells & seen
        seen |= cells
    assert {line for _, line in seen} == set(range(height))
    assert max(column for column, _ in seen) == width - 1


def test_two_tiles_are_side_by_side_only_where_both_are_wide_enough():
    assert [tile.left for tile in arrange(2, 80, 23)] == [0, 0]
    assert [tile.top for tile in arrange(2, 200, 49)] == [0, 0]


def test_a_pane_skips_what_comes_too_fast_and_keeps_it_to_look_back_at():
    source = Printed(host=b"first\r\n")
    pane = Pane(source, "host")
    pane.place(Tile(0, 0, 20, 5))
    assert pane.rows(colour=True)[0].startswith("first")
    source.consoles["host"] += b"".join(b"line %d\r\n" % number for number in range(5000)) + b"end"
    begun = time.monotonic()
    rows = pane.rows(colour=True)
    assert time.monotonic() - begun < 1
    assert any(row.startswith("end") for row in rows)
    assert "KiB went by" in pane.remark()
    pane.look_back()
    assert len(pane.pager.lines) == 5002


def test_keys_are_cut_apart():
    assert keys(b"a\x1b[A\x1b[5~\xc3\xa9\x1b") == [b"a", b"\x1b[A", b"\x1b[5~", b"\xc3\xa9", b"\x1b"]


def test_only_the_last_question_is_answered():
    woken = threading.Event()
    asker = Asker(Printed(host=b""), woken.set)
    asker.ask("vcpus")
    asker.ask("monitor", "info")
    answer = None
    limit = time.monotonic() + 10
    while answer is None and time.monotonic() < limit:
        answer = asker.take()
        time.sleep(0.005)
    assert answer == "monitor info"
    assert woken.is_set()
    assert not asker.pending
    asker.ask("map")
    while (answer := asker.take()) is None and time.monotonic() < limit:
        time.sleep(0.005)
    assert answer == "error: no map"
    asker.close()
