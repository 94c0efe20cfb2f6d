# SPDX-License-Identifier: MIT
"""Page tables of every shape, made by hand in a file that stands for a guest's memory."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from typing import BinaryIO

import numpy as np
import pytest

from harness.errors import HarnessError
from harness.model import Region
from harness.oracle.pagetables import Mapping, walk
from harness.vm.ram import Ram
from harness.vm.ram_layout import Layout

MIB = 1 << 20
SIZE = 4 * MIB
P, W, U, PS, NX = 1, 2, 4, 0x80, 1 << 63


class Tables:
    """Writes entries of page tables into a file of ``SIZE`` bytes of RAM at address 0."""

    def __init__(self, file: BinaryIO) -> None:
        self.file = file
        file.truncate(SIZE)
        self.ram = Ram(file, Layout([Region(0, SIZE)]))

    def entry(self, table: int, index: int, value: int) -> None:
        self.file.seek(table + 8 * index)
        self.file.write(np.uint64(value).tobytes())
        self.file.flush()


@pytest.fixture
def tables() -> Iterator[Tables]:
    with tempfile.TemporaryFile() as file:
        yield Tables(file)


EVERYTHING = [Region(0, 1 << 52)]


def chain(tables: Tables, *indices: int, rights: int = P | W | U) -> None:
    """Link tables at 0x1000, 0x2000, ... through ``indices``."""
    for level, index in enumerate(indices):
        tables.entry(0x1000 * (level + 1), index, 0x1000 * (level + 2) | rights)


def test_a_page_of_4_kib(tables: Tables) -> None:
    chain(tables, 273, 0, 3)
    tables.entry(0x4000, 5, 0x123000 | P | W | NX)
    leaves = walk(tables.ram, 0x1000, 4)
    virtual = 0xFFFF_8880_0000_0000 | 3 << 21 | 5 << 12
    assert leaves.into(EVERYTHING) == (Mapping(virtual, Region(0x123000, 4096), True, False, False),)
    assert leaves.translate(virtual + 7) == 0x123007
    assert leaves.translate(virtual + 4096) is None


def test_pages_of_2_mib_and_1_gib(tables: Tables) -> None:
    chain(tables, 1, 2)
    # Bit 12 of a large page is its PAT bit, no address.
    tables.entry(0x3000, 1, 0x40000000 | 1 << 12 | P | PS)
    tables.entry(0x2000, 3, 0x80000000 | P | PS)
    assert [mapping.physical for mapping in walk(tables.ram, 0x1000, 4).into(EVERYTHING)] == [
        Region(0x40000000, 2 * MIB),
        Region(0x80000000, 1024 * MIB),
    ]


def test_five_levels(tables: Tables) -> None:
    chain(tables, 256, 1, 1, 1)
    tables.entry(0x5000, 1, 0x1000 | P)
    (mapping,) = walk(tables.ram, 0x1000, 5).into(EVERYTHING)
    assert mapping.virtual == 0xFF00_0000_0000_0000 | 1 << 39 | 1 << 30 | 1 << 21 | 1 << 12


def test_an_address_with_bit_47_has_no_sign_among_five_levels(tables: Tables) -> None:
    chain(tables, 0, 256, 0, 0)
    tables.entry(0x5000, 0, 0x1000 | P)
    (mapping,) = walk(tables.ram, 0x1000, 5).into(EVERYTHING)
    assert mapping.virtual == 1 << 47


def test_every_level_has_to_grant_a_right(tables: Tables) -> None:
    chain(tables, 0, 0, rights=P | W)
    tables.entry(0x3000, 0, 0x4000 | P | W | U | NX)
    tables.entry(0x4000, 0, 0x1000 | P | W | U)
    (mapping,) = walk(tables.ram, 0x1000, 4).into(EVERYTHING)
    assert mapping.permission == "rw-"


def test_neighbours_are_joined(tables: Tables) -> None:
    chain(tables, 0, 0, 0)
    for index in range(8):
        # The fifth may not be written, the seventh is somewhere else.
        place = 0x200000 + 0x1000 * index + (0x80000 if index == 6 else 0)
        tables.entry(0x4000, index, place | P | (0 if index == 4 else W))
    found = [(one.physical.start, one.physical.size, one.writable) for one in walked(tables)]
    assert found == [
        (0x200000, 0x4000, True),
        (0x204000, 0x1000, False),
        (0x205000, 0x1000, True),
        (0x286000, 0x1000, True),
        (0x207000, 0x1000, True),
    ]


def walked(tables: Tables) -> tuple[Mapping, ...]:
    return walk(tables.ram, 0x1000, 4).into(EVERYTHING)


def test_only_what_is_in_the_regions(tables: Tables) -> None:
    chain(tables, 0, 0)
    tables.entry(0x3000, 1, 0x200000 | P | PS)
    (mapping,) = walk(tables.ram, 0x1000, 4).into([Region(0x301000, 0x2000)])
    assert (mapping.virtual, mapping.physical) == (0x301000, Region(0x301000, 0x2000))


def test_what_is_not_present_is_not_mapped(tables: Tables) -> None:
    chain(tables, 0, 0, 0)
    tables.entry(0x4000, 0, 0x123000 | W | U)
    assert walked(tables) == ()


def test_tables_outside_ram_are_told(tables: Tables) -> None:
    tables.entry(0x1000, 0, 0xFEE00000 | P)
    assert walk(tables.ram, 0x1000, 4).outside == (0xFEE00000,)


def test_tables_without_an_end(tables: Tables) -> None:
    for index in range(512):
        tables.entry(0x1000, index, 0x1000 | P)
    with pytest.raises(HarnessError, match="without an end"):
        walk(tables.ram, 0x1000, 4)
