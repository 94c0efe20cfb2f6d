# SPDX-License-Identifier: MIT
"""A machine's memory drawn as a map: who claims what, who has mapped it, what was written."""

from __future__ import annotations

from collections.abc import Sequence
from io import StringIO

from rich import box
from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from harness.partition import FIXED, FREE, Part

CELLS = 96
"""Cells of the strip that shows all RAM, where there is room for so many."""
ROOMY, NARROW = (84, 13), (60, 10)
"""Columns, and more of them for each kernel that has mapped something: from where the table has borders,
and the reasons of claims in it; and what it takes without."""
_COLOURS = ("cyan", "yellow", "magenta", "green", "blue", "red")


def draw(parts: Sequence[Part], width: int = 140) -> RenderableType:
    """Return the map, ``width`` columns wide: a strip in which a cell is a piece of RAM, and a table.

    Where that is too narrow reasons of claims go below, and who has mapped what is left out.
    """
    names = list(dict.fromkeys(part.claim for part in parts if part.claim not in {FREE, FIXED}))
    kernels = list(dict.fromkeys(name for part in parts for name in part.mapped))
    roomy = width >= ROOMY[0] + ROOMY[1] * len(kernels)
    notes: list[str] = []
    if width < NARROW[0] + NARROW[1] * len(kernels):
        kernels = []
        notes.append("Who has mapped what is shown where there are more columns.")
    table = Table() if roomy else Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    for column in (
        "memory",
        "KiB",
        "claimed by",
        "pages written",
        *(f"KiB mapped by {name}" for name in kernels),
    ):
        # Half an address is of no use, nor half a number.
        right = column not in {"memory", "claimed by"}
        table.add_column(column, justify="right" if right else "left", no_wrap=column == "memory")
    for part in parts:
        style = _style(part.claim, names)
        why = f" ({part.why})" if part.why and roomy else ""
        notes += [f"{part.region}: {part.why}"] if part.why and not roomy else []
        mapped = (f"{part.mapped[name] >> 10:,}" if part.mapped.get(name) else "-" for name in kernels)
        table.add_row(
            str(part.region),
            f"{part.region.size >> 10:,}",
            Text(f"{_letter(part.claim, names)} {part.claim}{why}", style=style),
            f"{part.written:,}",
            *mapped,
        )
    return Group(_strip(parts, names, min(CELLS, width)), table, *notes)


def text_of(parts: Sequence[Part], width: int = 140) -> str:
    """Return the map as text without colours."""
    display = Console(file=StringIO(), width=width, color_system=None)
    with display.capture() as captured:
        display.print(draw(parts, width))
    return captured.get()


def _strip(parts: Sequence[Part], names: Sequence[str], room: int) -> Text:
    total = sum(part.region.size for part in parts)
    strip, drawn, done = Text(), 0, 0
    for part in parts:
        done += part.region.size
        # Whatever is there gets a cell, so that what is small is to be seen, too.
        cells = max(1, done * room // total - drawn)
        drawn += cells
        strip.append(_letter(part.claim, names) * cells, _style(part.claim, names))
    return strip


def _letter(claim: str, names: Sequence[str]) -> str:
    if claim in {FREE, FIXED}:
        return "." if claim == FREE else "="
    taken = [name[0] for name in names[: names.index(claim)]]
    return claim[0].upper() if claim[0] in taken else claim[0]


def _style(claim: str, names: Sequence[str]) -> str:
    if claim in {FREE, FIXED}:
        return "dim" if claim == FREE else "white"
    return _COLOURS[names.index(claim) % len(_COLOURS)]
