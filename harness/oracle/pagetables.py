# SPDX-License-Identifier: MIT
"""What a vCPU can touch: its page tables, walked from CR3, with every kernel's RAM in view.

Whatever a kernel has not mapped it cannot touch before it maps it, so the walk answers for all code
that runs on this page table root, not only for what has run. The kernel half of the tables is the
same for all processes; the lower half is the process' that the vCPU ran when it was looked at.
Source for the entries' bits: Intel SDM volume 3, 4.5.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from harness.errors import HarnessError
from harness.model import Region, common
from harness.vm.ram_pages import PAGE, Bytes, Pages
from harness.vm.registers import Registers

ENTRIES = 512
LIMIT = 1 << 16
"""Tables of one level. A kernel has some hundreds; ones that refer to themselves would have no end."""
_PRESENT, _WRITABLE, _USER, _LARGE = 1, 2, 4, 0x80
_NO_EXECUTE = 1 << 63
_RIGHTS = _WRITABLE | _USER
_ADDRESS = 0x000F_FFFF_FFFF_F000
_CR0_PAGING, _CR4_LA57 = 1 << 31, 1 << 12

Words = npt.NDArray[np.uint64]


@dataclass(frozen=True)
class Mapping:
    """A stretch of memory that a vCPU can touch: from ``virtual`` on, ``physical`` memory.

    ``user`` says that unprivileged code may, too.
    """

    virtual: int
    physical: Region
    writable: bool
    executable: bool
    user: bool

    @property
    def permission(self) -> str:
        """``rw-``, ``r-x`` and so on; ``u`` in front where unprivileged code may."""
        rights = f"r{'w' if self.writable else '-'}{'x' if self.executable else '-'}"
        return f"u{rights}" if self.user else rights

    def __str__(self) -> str:
        return f"{self.virtual:#018x} {self.permission} -> {self.physical}"


@dataclass(frozen=True)
class Leaves:
    """The ends of page tables, one per page of whatever size: addresses and sizes in bytes, rights.

    ``virtual`` is without the sign. ``outside`` are the addresses of page tables that are not in RAM,
    which no walk can read.
    """

    levels: int
    virtual: Words
    physical: Words
    size: Words
    rights: Words
    outside: tuple[int, ...]

    @property
    def mapped(self) -> int:
        """Bytes that are mapped, each as often as it is."""
        return int(self.size.sum())

    def translate(self, virtual: int) -> int | None:
        """Return the physical address behind a virtual one, None when it is not mapped."""
        wanted = np.uint64(virtual & (1 << 57) - 1 if self.levels == 5 else virtual & (1 << 48) - 1)
        hit = np.flatnonzero((self.virtual <= wanted) & (wanted - self.virtual < self.size))
        return int(self.physical[hit[0]] + wanted - self.virtual[hit[0]]) if len(hit) else None

    def into(self, regions: Iterable[Region]) -> tuple[Mapping, ...]:
        """Return what is mapped of ``regions``, neighbours joined."""
        found = []
        for region in regions:
            start, end = np.uint64(region.start), np.uint64(region.end)
            hit = (self.physical < end) & (self.physical + self.size > start)
            if hit.any():
                found += self._joined(hit, region)
        return tuple(sorted(found, key=lambda mapping: mapping.virtual))

    def _joined(self, hit: npt.NDArray[np.bool_], region: Region) -> list[Mapping]:
        virtual, physical, size, rights = (
            part[hit] for part in (self.virtual, self.physical, self.size, self.rights)
        )
        order = np.argsort(virtual)
        virtual, physical, size, rights = (part[order] for part in (virtual, physical, size, rights))
        follows = (
            (virtual[1:] == virtual[:-1] + size[:-1])
            & (physical[1:] == physical[:-1] + size[:-1])
            & (rights[1:] == rights[:-1])
        )
        firsts = np.concatenate(([0], np.flatnonzero(~follows) + 1))
        lasts = np.concatenate((firsts[1:], [len(virtual)])) - 1
        joined = []
        for first, last in zip(firsts.tolist(), lasts.tolist(), strict=True):
            begin = int(physical[first])
            whole = Region(begin, int(physical[last]) + int(size[last]) - begin)
            (inside,) = common([whole], [region])
            right = int(rights[first])
            joined.append(
                Mapping(
                    self._canonical(int(virtual[first])) + inside.start - begin,
                    inside,
                    writable=bool(right & _WRITABLE),
                    executable=not right & _NO_EXECUTE,
                    user=bool(right & _USER),
                )
            )
        return joined

    def _canonical(self, address: int) -> int:
        sign = 9 * self.levels + 11
        return address | -1 << sign & (1 << 64) - 1 if address >> sign & 1 else address


def levels_of(registers: Registers) -> int:
    """Return how many levels of page tables a vCPU uses; 0 where it does not use any (real mode)."""
    if not registers["CR0"] & _CR0_PAGING:
        return 0
    return 5 if registers["CR4"] & _CR4_LA57 else 4


class Memory(Protocol):
    """Physical memory, of a machine or a core file; see harness.vm.ram.Ram."""

    @property
    def regions(self) -> tuple[Region, ...]:
        """Where there is RAM."""

    def rows(self, pages: Pages) -> Bytes:
        """Return pages by their numbers, a row each."""


def walk(ram: Memory, root: int, levels: int) -> Leaves:
    """Follow all entries of the page tables whose root is at address ``root``.

    Raises HarnessError for tables that are more than a kernel can have.
    """
    tables, bases = np.array([root], np.uint64), np.zeros(1, np.uint64)
    # Rights are what all levels grant: a bit that grants is and-ed, the one that denies or-ed.
    granted, denied = np.array([_RIGHTS], np.uint64), np.zeros(1, np.uint64)
    ends: list[tuple[Words, Words, Words, Words]] = []
    outside: list[int] = []
    for level in range(levels, 0, -1):
        inside = _in_ram(ram, tables)
        outside += tables[~inside].tolist()
        tables, bases, granted, denied = (part[inside] for part in (tables, bases, granted, denied))
        if not len(tables):
            break
        if len(tables) > LIMIT:
            raise HarnessError(
                f"page tables at {root:#x}: more than {LIMIT} of level {level}, without an end?"
            )
        pages, place = np.unique(tables // PAGE, return_inverse=True)
        entries = ram.rows(pages.astype(np.int64)).view(np.uint64)[place]
        table, index = np.nonzero(entries & np.uint64(_PRESENT))
        entry = entries[table, index]
        shift = 12 + 9 * (level - 1)
        virtual = bases[table] | index.astype(np.uint64) << np.uint64(shift)
        grants = granted[table] & entry
        denies = denied[table] | entry & np.uint64(_NO_EXECUTE)
        leaf = entry & np.uint64(_LARGE) != 0 if level in {2, 3} else np.full(len(entry), level == 1)
        size = np.uint64(1 << shift)
        address = entry & np.uint64(_ADDRESS)
        ends.append(
            (
                virtual[leaf],
                # A large page's lower address bits hold other things (PAT).
                address[leaf] & ~(size - np.uint64(1)),
                np.full(int(leaf.sum()), size),
                grants[leaf] | denies[leaf],
            )
        )
        tables, bases, granted, denied = address[~leaf], virtual[~leaf], grants[~leaf], denies[~leaf]
    columns = [
        np.concatenate(column) if column else np.empty(0, np.uint64) for column in zip(*ends, strict=True)
    ]
    virtual, physical, sizes, rights = columns if columns else [np.empty(0, np.uint64)] * 4
    return Leaves(levels, virtual, physical, sizes, rights, tuple(sorted(set(outside))))


def _in_ram(ram: Memory, addresses: Words) -> npt.NDArray[np.bool_]:
    inside = np.zeros(len(addresses), np.bool_)
    for region in ram.regions:
        inside |= (addresses >= np.uint64(region.start)) & (addresses < np.uint64(region.end))
    return inside
