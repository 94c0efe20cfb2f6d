# SPDX-License-Identifier: MIT
"""Where the tiles are: a rectangle of the terminal for each kernel, title line included."""

from __future__ import annotations

from dataclasses import dataclass

GOOD_WIDTH, GOOD_HEIGHT = 78, 16
"""Columns and lines that a tile should have: a line of a kernel, and enough of them to follow."""
LEAST_WIDTH, LEAST_HEIGHT = 20, 5
"""A terminal smaller than this shows nothing but that."""


@dataclass(frozen=True)
class Tile:
    """A rectangle: its first column and line, counted from 0, and its size; the first line is the title's."""

    left: int
    top: int
    width: int
    height: int


def arrange(count: int, width: int, height: int) -> tuple[Tile, ...]:
    """Return ``count`` tiles that fill ``width`` columns and ``height`` lines, with a column between them."""
    columns = max(range(1, count + 1), key=lambda one: (_worth(count, one, width, height), one))
    rows = -(-count // columns)
    tiles = []
    for row in range(rows):
        in_row = min(columns, count - row * columns)
        top, bottom = row * height // rows, (row + 1) * height // rows
        for column in range(in_row):
            left = column * (width + 1) // in_row
            right = (column + 1) * (width + 1) // in_row - 1
            tiles.append(Tile(left, top, max(right - left, 1), max(bottom - top, 2)))
    return tuple(tiles)


def _worth(count: int, columns: int, width: int, height: int) -> float:
    rows = -(-count // columns)
    wide, high = (width + 1) // columns - 1, height // rows - 1
    return min(wide / GOOD_WIDTH, 1.0) * min(high / GOOD_HEIGHT, 1.0)
