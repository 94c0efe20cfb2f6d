# SPDX-License-Identifier: MIT
"""The picture of what kernels did over a time."""

from xml.etree import ElementTree

import pytest

from harness.report.timeline import BAR, COLOURS, LEFT, NARROW, RIGHT, WIDTH, Kind, Lane, Span, draw

SVG = "{http://www.w3.org/2000/svg}"
LANES = (
    Lane("host", (Span("serving", 0, 10), Span("boot", 4, 8, "boots 7.3"), Span("gap", 9, 9.0001)), "away"),
    Lane("<b>&", (Span("serving", 0, 10),)),
)


def bars(svg: str, kind: Kind) -> list[tuple[float, float]]:
    rects = ElementTree.fromstring(svg).iter(f"{SVG}rect")
    found = [one for one in rects if (one.get("fill"), one.get("height")) == (COLOURS[kind][0], str(BAR))]
    return [(float(one.get("x", 0)), float(one.get("width", 0))) for one in found]


def texts(svg: str) -> list[str]:
    return [str(one.text) for one in ElementTree.fromstring(svg).iter(f"{SVG}text")]


def test_to_scale() -> None:
    width = WIDTH - LEFT - RIGHT
    assert bars(draw("t", LANES, 10), "boot") == [(LEFT + width * 0.4, width * 0.4)]


def test_a_short_gap_is_seen() -> None:
    assert [width for _, width in bars(draw("t", LANES, 10), "gap")] == [NARROW]


def test_a_label_only_where_there_is_room() -> None:
    assert "boots 7.3" in texts(draw("t", LANES, 10))
    assert "boots 7.3" not in texts(draw("t", LANES, 1000))


def test_names_are_escaped() -> None:
    assert {"<b>&", "a < b"} <= set(texts(draw("a < b", LANES, 10)))


@pytest.mark.parametrize(("seconds", "last"), [(0.35, "0.3 s"), (8.2, "8 s"), (61, "60 s")])
def test_axis(seconds: float, last: str) -> None:
    marks = [text for text in texts(draw("t", LANES, seconds)) if text.endswith(" s")]
    assert 3 <= len(marks) <= 12
    assert marks[-1] == last
