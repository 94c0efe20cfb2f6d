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


@dataclass(frozen=True)
class FixedArea:
    """Memory that more than one kernel may touch by design, and why it must be so."""

    region: Region
    why: str


@dataclass(frozen=True)
class Owner:
    """A kernel and what is its own: memory, and the local APIC ids of its CPUs.

    ``apic_ids`` is empty where it is not known which CPUs it has.
    """

    name: str
    memory: tuple[Region, ...]
    apic_ids: frozenset[int] = frozenset()


@dataclass(frozen=True)
class Layout:
    """Who claims what of a machine: the host first, then every spawned kernel.

    ``fixed`` is the list of memory that is nobody's alone. RAM that neither an owner nor this list
    names is free: nobody has a reason to write there.
    """

    owners: tuple[Owner, ...]
    fixed: tuple[FixedArea, ...]

    def owner_of(self, address: int) -> Owner | None:
        """Return the kernel that claims an address."""
        byte = Region(address, 1)
        return next((one for one in self.owners if any(part.contains(byte) for part in one.memory)), None)

    def free(self, ram: Iterable[Region]) -> tuple[Region, ...]:
        """Return what of a machine's ``ram`` nobody claims."""
        claimed = [part for owner in self.owners for part in owner.memory]
        return without(ram, [*claimed, *(area.region for area in self.fixed)])

    def foreign(self, name: str, ram: Iterable[Region]) -> tuple[Region, ...]:
        """Return what of a machine's ``ram`` kernel ``name`` has no business with."""
        own = [part for owner in self.owners if owner.name == name for part in owner.memory]
        return without(ram, [*own, *(area.region for area in self.fixed)])


@dataclass(frozen=True)
class Finding:
    """One thing that should not be, in a sentence, and what shows it."""

    what: str
    evidence: tuple[Evidence, ...] = ()

    def __str__(self) -> str:
        return "\n".join([self.what, *(f"{one.title}:\n{one.text}" for one in self.evidence)])
