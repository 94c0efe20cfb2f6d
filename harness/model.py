# SPDX-License-Identifier: MIT
"""The nouns that every layer shares. All are frozen: a fact does not change after it was seen."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True, order=True)
class Region:
    """A range of guest-physical memory: ``size`` bytes from address ``start``."""

    start: int
    size: int

    def __post_init__(self) -> None:
        if self.start < 0 or self.size <= 0:
            raise ValueError(
                f"a region needs start >= 0 and size > 0, not start={self.start} size={self.size}"
            )

    @classmethod
    def from_bounds(cls, first: int, last: int) -> Region:
        """Make a region from its first and last byte's address, as /proc/iomem prints them."""
        return cls(first, last - first + 1)

    @property
    def end(self) -> int:
        """The first address behind the region."""
        return self.start + self.size

    def overlaps(self, other: Region) -> bool:
        """Say whether at least one byte belongs to both."""
        return self.start < other.end and other.start < self.end

    def contains(self, other: Region) -> bool:
        """Say whether every byte of ``other`` belongs to this region."""
        return self.start <= other.start and other.end <= self.end

    def __str__(self) -> str:
        return f"{self.start:#x}-{self.end - 1:#x}"


def merged(regions: Iterable[Region]) -> tuple[Region, ...]:
    """Sort regions and join those that touch or overlap."""
    result: list[Region] = []
    for region in sorted(regions):
        if result and region.start <= result[-1].end:
            last = result.pop()
            result.append(Region(last.start, max(last.end, region.end) - last.start))
        else:
            result.append(region)
    return tuple(result)


def without(regions: Iterable[Region], holes: Iterable[Region]) -> tuple[Region, ...]:
    """Cut ``holes`` out of ``regions``; both may overlap each other in any way."""
    left = list(merged(regions))
    for hole in merged(holes):
        pieces = []
        for region in left:
            if not region.overlaps(hole):
                pieces.append(region)
                continue
            if region.start < hole.start:
                pieces.append(Region(region.start, hole.start - region.start))
            if hole.end < region.end:
                pieces.append(Region(hole.end, region.end - hole.end))
        left = pieces
    return tuple(left)


def common(some: Iterable[Region], others: Iterable[Region]) -> tuple[Region, ...]:
    """Return the memory that lies in both."""
    some = merged(some)
    return without(some, without(some, others))


@dataclass(frozen=True)
class Evidence:
    """What was seen, in words or as the guest printed it; ``title`` says where it comes from."""

    title: str
    text: str
