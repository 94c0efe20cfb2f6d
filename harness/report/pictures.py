# SPDX-License-Identifier: MIT
"""What the page draws: consoles as lanes over time, memory as a strip, latency as a histogram.

All return SVG for an HTML page whose style sheet has the classes; every text is escaped.
"""

from __future__ import annotations

from collections.abc import Sequence

from jinja2 import Environment
from markupsafe import Markup

from harness.bench_messages import Messages
from harness.partition import FIXED, FREE
from harness.report.record import Case, Stretch

WIDTH, LEFT = 800, 90
"""Units of a picture's width, and of the column with names; its view box scales."""
LANE, TICK = 26, 15
"""Units of a lane's height and of a tick's."""
COLOURS = 4
"""Kernels have colours in turn: classes k0 to k3."""
BARS = 90
"""Units of a histogram's height."""

_JINJA = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
_LANES = _JINJA.from_string(
    """\
<svg viewBox="0 0 {{ width }} {{ height }}" role="img" aria-label="when each kernel printed">
{% for x, text in ticks %}
<path class="rule" d="M{{ x }} 4V{{ height - 18 }}"/><text class="quiet" x="{{ x }}" y="{{ height - 4 }}" \
text-anchor="middle">{{ text }}</text>
{% endfor %}
{% for lane in lanes %}
<text class="ink" x="0" y="{{ lane.y + 12 }}">{{ lane.name }}</text>
<path class="k{{ lane.colour }}" d="{{ lane.path }}"/>
{% for x, splat in lane.splats %}
<path class="bad" d="M{{ x }} {{ lane.y - 2 }}v19"><title>{{ splat }}</title></path>
{% endfor %}
{% if lane.before %}
<text class="quiet" x="{{ left - 6 }}" y="{{ lane.y + 12 }}" text-anchor="end">+{{ lane.before }}</text>
{% endif %}
{% endfor %}
</svg>"""
)
_STRIP = _JINJA.from_string(
    """\
<svg viewBox="0 0 {{ width }} 58" role="img" aria-label="who has which memory" class="strip">
{% for part in parts %}
<rect x="{{ part.x }}" y="2" width="{{ part.width }}" height="26" class="{{ part.kind }}">\
<title>{{ part.title }}</title></rect>
{% if part.written %}
<rect x="{{ part.x }}" y="30" width="{{ part.width }}" height="5" class="ink" \
style="opacity:{{ part.written }}"/>
{% endif %}
{% endfor %}
{% for x, text, anchor in ends %}
<text class="quiet" x="{{ x }}" y="52" text-anchor="{{ anchor }}">{{ text }}</text>
{% endfor %}
</svg>"""
)
_BARS = _JINJA.from_string(
    """\
<svg viewBox="0 0 {{ width }} {{ height }}" role="img" aria-label="how long round trips took">
{% for row in rows %}
<text class="ink" x="0" y="{{ row.y - 4 }}">{{ row.name }}</text>
{% for x, y, high, title in row.bars %}
<rect class="k{{ row.colour }}" x="{{ x }}" y="{{ y }}" width="{{ bar }}" height="{{ high }}">\
<title>{{ title }}</title></rect>
{% endfor %}
<path class="rule" d="M{{ left }} {{ row.y }}H{{ width }}"/>
{% endfor %}
{% for x, text in ticks %}
<text class="quiet" x="{{ x }}" y="{{ height - 4 }}" text-anchor="middle">{{ text }}</text>
{% endfor %}
</svg>"""
)


def lanes(case: Case) -> Markup:
    """Draw when each of a case's kernels printed, on one clock; empty where none did."""
    last = max((line.at for console in case.consoles for line in console.lines), default=-1.0)
    seconds = max(case.seconds, last, 0.1)
    if last < 0:
        return Markup("")
    scale = (WIDTH - LEFT - 14) / seconds
    step = next(one for one in _steps() if seconds / one <= 8)
    ticks = [(_at(n * step, scale), f"{n * step:g} s") for n in range(int(seconds / step) + 1)]
    drawn = []
    for row, console in enumerate(case.consoles):
        y = 8 + LANE * row
        xs = dict.fromkeys(_at(line.at, scale) for line in console.lines if line.at >= 0)
        drawn.append(
            {
                "name": console.kernel,
                "y": y,
                "colour": row % COLOURS,
                "path": "".join(f"M{x} {y}v{TICK}" for x in xs),
                "splats": [(_at(one.at, scale), one.text) for one in console.splats if one.at >= 0],
                "before": sum(line.at < 0 for line in console.lines),
            }
        )
    height = 8 + LANE * len(drawn) + 20
    return Markup(_LANES.render(width=WIDTH, height=height, left=LEFT, lanes=drawn, ticks=ticks))


def _at(seconds: float, scale: float) -> int:
    return round(LEFT + seconds * scale) if seconds >= 0 else 0


def _steps() -> Sequence[float]:
    return [base * 10.0**power for power in range(-2, 6) for base in (1, 2, 5)]


def kind(claim: str, owners: Sequence[str]) -> str:
    """Return the class that colours whose memory it is."""
    if claim in {FREE, FIXED}:
        return "free" if claim == FREE else "fixed"
    return f"k{owners.index(claim) % COLOURS}"


def owners(parts: Sequence[Stretch]) -> list[str]:
    """Return the kernels that claim memory, in its order."""
    return list(dict.fromkeys(part.claim for part in parts if part.claim not in {FREE, FIXED}))


def strip(parts: Sequence[Stretch]) -> Markup:
    """Draw a machine's memory; what is small is drawn wider than it is. Below: how much was written."""
    if not parts:
        return Markup("")
    total, names = sum(part.size for part in parts), owners(parts)
    widths = [max(3.0, WIDTH * part.size / total) for part in parts]
    scale, x, drawn = WIDTH / sum(widths), 0.0, []
    for part, width in zip(parts, widths, strict=True):
        share = part.written * 4096 / part.size
        drawn.append(
            {
                "x": round(x, 1),
                "width": round(width * scale, 1),
                "kind": kind(part.claim, names),
                "title": f"{part.start:#x}-{part.start + part.size - 1:#x} {part.claim} {part.why}".strip(),
                "written": f"{max(0.25, share):.2f}" if part.written else "",
            }
        )
        x += width * scale
    first, last = parts[0].start, parts[-1].start + parts[-1].size
    ends = [(0, f"{first:#x}", "start"), (WIDTH, f"{last:#x}", "end")]
    return Markup(_STRIP.render(width=WIDTH, parts=drawn, ends=ends))


def histogram(found: Messages) -> Markup:
    """Draw how long round trips of the greatest size took: a message, a call, a pipe, on one scale."""
    trip = found.round_trip[-1]
    edges, every = found.edges_ns, (("message", trip.message), ("call", trip.call), ("pipe", trip.pipe))
    width = (WIDTH - LEFT) / (len(edges) - 1)
    rows = []
    for number, (name, spread) in enumerate(every):
        bottom = (number + 1) * (BARS + 12)
        most = max(spread.histogram) or 1
        rows.append(
            {
                "name": name,
                "y": bottom,
                "colour": number,
                "bars": [
                    (
                        round(LEFT + at * width, 1),
                        round(bottom - BARS * count / most, 1),
                        round(BARS * count / most, 1),
                        f"{count} took {edges[at] / 1e3:,.0f} to {edges[at + 1] / 1e3:,.0f} us",
                    )
                    for at, count in enumerate(spread.histogram)
                    if count
                ],
            }
        )
    marks = range(1, len(edges) - 1, 4)
    ticks = [(round(LEFT + at * width, 1), f"{edges[at] / 1e3:,.0f} us") for at in marks]
    height = len(rows) * (BARS + 12) + 22
    return Markup(
        _BARS.render(width=WIDTH, height=height, left=LEFT, bar=round(width * 0.9, 1), rows=rows, ticks=ticks)
    )
