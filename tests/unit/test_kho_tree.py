# SPDX-License-Identifier: MIT
"""KHO's device tree, which is read strictly, and the structures that it leads to, in memory made by hand."""

from __future__ import annotations

import struct
from pathlib import Path

import fdt
import numpy as np
import pytest

from harness.errors import HarnessError
from harness.model import Region
from harness.multikernel.handover import parse_tree
from harness.oracle import preserved
from harness.vm.ram import Ram
from harness.vm.ram_layout import Layout
from harness.vm.ram_pages import PAGE


def number(value: int) -> bytes:
    return struct.pack("<Q", value)


def tree(*more: tuple[str, str, bytes]) -> bytes:
    made = fdt.FDT()
    made.header.version, made.header.last_comp_version = 17, 16
    made.root.append(fdt.PropBytes("compatible", data=b"kho-v4\0"))
    made.root.append(fdt.PropBytes("preserved-memory-map", data=number(0x41404140)))
    for node in dict.fromkeys(name for name, _, _ in more):
        made.add_item(fdt.Node(node))
        for name, key, value in more:
            if name == node:
                made.get_node(node).append(fdt.PropBytes(key, data=value))
    return bytes(made.to_dtb())


LUO = (("LUO", "preserved-data", number(0x5000)), ("LUO", "blob-size", number(32)))


def test_the_tree_is_read_to_the_byte() -> None:
    found = parse_tree(tree(*LUO) + b"rubbish behind it")
    assert found.compatible == "kho-v4"
    # Its bytes are letters, which must not make a string of it.
    assert found.memory_map == 0x41404140
    assert found.blobs == {"LUO": Region(0x5000, 32)}


@pytest.mark.parametrize(
    "blob",
    [
        b"",
        tree(*LUO)[:-1],
        b"\0" * 4096,
        tree(*LUO)[:8] + b"\xff" * 16 + tree(*LUO)[24:],
        tree(LUO[0]),
        tree(*LUO, ("LUO", "more", b"x")),
        tree(LUO[0], ("LUO", "blob-size", b"1234")),
    ],
    ids=["nothing", "cut off", "zeros", "wild offsets", "no size", "a property more", "a short number"],
)
def test_what_is_not_whole_is_refused(blob: bytes) -> None:
    with pytest.raises(HarnessError):
        parse_tree(blob)


class Memory:
    """64 pages of a guest's memory, written by hand."""

    def __init__(self, file: Path) -> None:
        file.write_bytes(bytes(64 * PAGE))
        self.ram = Ram(file.open("r+b"), Layout([Region(0, 64 * PAGE)]))

    def put(self, page: int, data: bytes, at: int = 0) -> None:
        self.ram.write(page * PAGE + at, data)


@pytest.fixture
def memory(tmp_path: Path) -> Memory:
    return Memory(tmp_path / "ram")


def put_map(memory: Memory, wanted: list[Region]) -> None:
    """Write the map that names these folios to page 1 and those behind it."""
    # Root to leaf: levels 5 to 1 are tables; keys as the header of the kernel explains them.
    nodes = {(): 1}
    leaves: dict[int, np.ndarray] = {}
    tables: dict[int, dict[int, int]] = {}
    for region in wanted:
        order = (region.size // PAGE).bit_length() - 1
        key = 1 << 64 - 12 - order | region.start >> 12 + order
        path: tuple[int, ...] = ()
        for level in range(5, 0, -1):
            index = key >> (level - 1) * 9 + 15 & 511
            below = (*path, index)
            nodes.setdefault(below, len(nodes) + 1)
            tables.setdefault(nodes[path], {})[index] = nodes[below]
            path = below
        bitmap = leaves.setdefault(nodes[path], np.zeros(PAGE, np.uint8))
        bitmap[(key & 0x7FFF) // 8] |= 1 << key % 8
    for page, table in tables.items():
        for index, below in table.items():
            memory.put(page, number(below * PAGE), index * 8)
    for page, bitmap in leaves.items():
        memory.put(page, bitmap.tobytes())


def test_the_map_names_folios_of_every_order(memory: Memory) -> None:
    wanted = [Region(0x3000, PAGE), Region(0x8000, 2 * PAGE), Region(0x20_0000, 512 * PAGE)]
    put_map(memory, wanted)
    assert preserved.folios(memory.ram, PAGE) == tuple(wanted)


def hand_over(memory: Memory, pages: list[int], *, count: int = 1) -> Region:
    """Write a session with one memfd of these physical pages."""
    memory.put(1, b"luo-v5\0\0" + number(3) + number(2 * PAGE) + number(0))
    session = b"mine".ljust(64, b"\0") + number(3 * PAGE) + number(count)
    memory.put(2, number(0) + number(1) + session)
    memory.put(3, number(0) + number(1) + b"memfd-v2".ljust(48, b"\0") + number(4 * PAGE) + number(77))
    size = len(pages) * PAGE - 5
    memory.put(4, struct.pack("<2Q2I2QI2H", 9, size, 6, 0, len(pages), 5 * PAGE, 1, 1, 0))
    memory.put(5, number(0) + number(6 * PAGE))
    memory.put(6, b"".join(number(page | 3 << 52) + number(at) for at, page in enumerate(pages)))
    return Region(PAGE, 32)


def test_sessions_are_read_down_to_the_pages(memory: Memory) -> None:
    luo = hand_over(memory, [40, 12, 13])
    (session,) = preserved.sessions(memory.ram, luo)
    (file,) = session.files
    assert (session.name, session.at) == ("mine", 2 * PAGE + 16)
    assert (file.token, file.position, file.size, file.seals) == (77, 9, 3 * PAGE - 5, 6)
    assert file.pages.tolist() == [40, 12, 13]
    assert preserved.liveupdate_number(memory.ram, luo) == 3


def test_what_contradicts_itself_is_refused(memory: Memory) -> None:
    with pytest.raises(HarnessError, match="says that it has 2 files, and lists 1"):
        preserved.sessions(memory.ram, hand_over(memory, [40], count=2))
    luo = hand_over(memory, [40])
    memory.put(2, number(2 * PAGE))
    with pytest.raises(HarnessError, match="round in circles"):
        preserved.sessions(memory.ram, luo)
    memory.put(1, b"luo-v6")
    with pytest.raises(HarnessError, match="the harness reads"):
        preserved.sessions(memory.ram, luo)


def test_the_tree_is_found_where_it_is_alone(memory: Memory) -> None:
    blob = tree(*LUO)
    memory.put(20, blob)
    assert preserved.find_tree(memory.ram, blob[:8]) == 20 * PAGE
    memory.put(21, blob)
    with pytest.raises(HarnessError, match="once"):
        preserved.find_tree(memory.ram, blob[:8])


def test_of_two_the_tree_is_the_one_that_is_handed_over(memory: Memory) -> None:
    """The other was in a buffer of the serial line on which the harness had asked for it."""
    blob = tree(*LUO).replace(number(0x41404140), number(PAGE))
    put_map(memory, [Region(21 * PAGE, PAGE)])
    memory.put(20, blob + b"more of what was sent")
    memory.put(21, blob)
    assert preserved.find_tree(memory.ram, blob[:8]) == 21 * PAGE
