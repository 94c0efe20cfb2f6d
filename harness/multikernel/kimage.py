# SPDX-License-Identifier: MIT
"""The /proc file that lists loaded images: ``/proc/multikernel`` (v1), ``/proc/kimage`` (since v2)."""

from __future__ import annotations

from dataclasses import dataclass

from harness.errors import HarnessError

EMPTY = "No kimages loaded"


@dataclass(frozen=True)
class Image:
    """One row. ``id`` is the instance's, None in v1; ``start`` is the entry's address."""

    id: int | None
    type: str
    start: int
    segments: int


def parse_kimage(text: str) -> tuple[Image, ...]:
    """Read the list; columns are told apart by white space. Raises HarnessError for another format."""
    header, *rows = text.splitlines()
    names = header.split()
    ids = names[:1] == ["MK_ID"]
    if names[ids : ids + 4] != ["Type", "Start", "Address", "Segments"]:
        raise HarnessError(f"this is no header of the list of images: {header!r}")
    images = []
    for row in rows:
        words = row.split()
        if not words or row.strip() == EMPTY or set(row) <= set("- "):
            continue
        try:
            number = int(words.pop(0)) if ids else None
            images.append(Image(number, words[0], int(words[1], 16), int(words[2])))
        except (ValueError, IndexError):
            raise HarnessError(f"this is no row of the list of images: {row!r}") from None
    return tuple(images)
