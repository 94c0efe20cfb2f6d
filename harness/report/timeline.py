# SPDX-License-Identifier: MIT
"""What several kernels did over a time, as a picture: a lane for each, written as SVG without a browser."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from jinja2 import Environment

Kind = Literal["serving", "gap", "boot", "handover", "down"]
COLOURS: dict[Kind, tuple[str, str]] = {
    "serving": ("#3b8f5c", "its heart beats"),
    "gap": ("#d1495b", "it stood still"),
    "boot": ("#3d6fb4", "it boots"),
    "handover": ("#c98a1b", "between the old kernel and the new"),
    "down": ("#8a8f98", "nothing runs there"),
}
"""The colour of each kind of span, and what it means."""
WIDTH, LEFT, RIGHT, TOP = 960, 170, 30, 58
LANE, BAR = 46, 26
"""Sizes in pixels: of the picture, of a lane, of the bar in it."""
TICKS = 10
NARROW = 2.0
"""Pixels that a gap has at the least, so that it is seen."""


@dataclass(frozen=True)
class Span:
    """What a kernel did from ``start`` to ``end``, in seconds since the picture's left edge."""

    kind: Kind
    start: float
    end: float
    label: str = ""


@dataclass(frozen=True)
class Lane:
    """One kernel: spans in their order, each in front of those before it, and a note below its name."""

    name: str
    spans: tuple[Span, ...]
    note: str = ""


_TEMPLATE = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True).from_string(
    """\
<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {{ width }} {{ height }}" role="img"
     font-family="system-ui, sans-serif" font-size="13">
<title>{{ title }}</title>
<style>
  .paper { fill: #ffffff } .ink { fill: #1c2128 } .quiet { fill: #59636e } .rule { stroke: #d0d7de }
  .on { fill: #ffffff }
  @media (prefers-color-scheme: dark) {
    .paper { fill: #16191d } .ink { fill: #e6edf3 } .quiet { fill: #9aa4af } .rule { stroke: #3a424c }
  }
</style>
<rect class="paper" width="{{ width }}" height="{{ height }}"/>
<text class="ink" x="16" y="26" font-size="16" font-weight="600">{{ title }}</text>
{% for tick in ticks %}
<line class="rule" x1="{{ tick.x }}" x2="{{ tick.x }}" y1="{{ top - 8 }}" y2="{{ bottom }}"/>
<text class="quiet" x="{{ tick.x }}" y="{{ bottom + 16 }}" text-anchor="middle" font-size="11">\
{{ tick.text }}</text>
{% endfor %}
{% for lane in lanes %}
<text class="ink" x="16" y="{{ lane.y + 12 }}" font-weight="600">{{ lane.name }}</text>
<text class="quiet" x="16" y="{{ lane.y + 27 }}" font-size="11">{{ lane.note }}</text>
{% for span in lane.spans %}
<rect x="{{ span.x }}" y="{{ lane.y }}" width="{{ span.width }}" height="{{ bar }}" fill="{{ span.colour }}">\
<title>{{ span.tip }}</title></rect>
{% if span.label %}
<text class="on" x="{{ span.x + 6 }}" y="{{ lane.y + 17 }}" font-size="12">{{ span.label }}</text>
{% endif %}
{% endfor %}
{% endfor %}
{% for entry in legend %}
<rect x="{{ entry.x }}" y="{{ entry.y - 10 }}" width="12" height="12" fill="{{ entry.colour }}"/>
<text class="quiet" x="{{ entry.x + 18 }}" y="{{ entry.y }}" font-size="11">{{ entry.text }}</text>
{% endfor %}
</svg>
"""
)


def draw(title: str, lanes: Sequence[Lane], seconds: float) -> str:
    """Return the picture of ``seconds`` from its left edge to its right one, as SVG."""
    scale = (WIDTH - LEFT - RIGHT) / seconds
    bottom = TOP + LANE * len(lanes)
    step = _step(seconds)
    marks = [step * mark for mark in range(int(seconds / step) + 1)]
    used = dict.fromkeys(span.kind for lane in lanes for span in lane.spans)
    return _TEMPLATE.render(
        title=title,
        width=WIDTH,
        height=bottom + 40 + 18 * -(-len(used) // 3),
        top=TOP,
        bottom=bottom,
        bar=BAR,
        ticks=[{"x": round(LEFT + mark * scale, 1), "text": f"{mark:g} s"} for mark in marks],
        lanes=[_lane(lane, TOP + LANE * row, scale) for row, lane in enumerate(lanes)],
        legend=[
            {
                "x": 16 + 315 * (place % 3),
                "y": bottom + 40 + 18 * (place // 3),
                "colour": COLOURS[kind][0],
                "text": f"{kind}: {COLOURS[kind][1]}",
            }
            for place, kind in enumerate(used)
        ],
    )


def _lane(lane: Lane, y: int, scale: float) -> dict[str, object]:
    spans = []
    for span in lane.spans:
        width = max((span.end - span.start) * scale, NARROW)
        tip = f"{span.label or span.kind}: {span.start:.2f} s to {span.end:.2f} s"
        spans.append(
            {
                "x": round(LEFT + span.start * scale, 1),
                "width": round(width, 1),
                "colour": COLOURS[span.kind][0],
                "label": span.label if width > 7 * len(span.label) + 12 else "",
                "tip": tip,
            }
        )
    return {"name": lane.name, "note": lane.note, "y": y, "spans": spans}


def _step(seconds: float) -> float:
    """Return the distance of the axis' marks: a round number that makes TICKS of them at most."""
    scale: float = 1
    while True:
        for step in (0.1 * scale, 0.2 * scale, 0.5 * scale):
            if seconds / step <= TICKS:
                return step
        scale *= 10
