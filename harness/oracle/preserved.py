# SPDX-License-Identifier: MIT
"""What a kernel hands over to its successor, read from the machine's memory.

Kexec Handover's device tree says where a tree of bitmaps is, which names every preserved folio, and
where the Live Update Orchestrator's sessions are, whose files name their folios once more. Source:
include/linux/kho/abi/ of Linux 7.3. Everything raises HarnessError for what is not of that format.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from harness.errors import HarnessError
from harness.model import Region, without
from harness.multikernel.handover import parse_tree
from harness.vm.ram import Ram
from harness.vm.ram_pages import PAGE, Pages

LEVELS, TABLE_BITS, BITMAP_BITS = 6, 9, 15
"""The tree of bitmaps: its depth, and bits of a folio's key by which a table and a bitmap are indexed."""
LUO_ABI, MEMFD_ABI = b"luo-v5", b"memfd-v2"
_LUO, _BLOCK = struct.Struct("<8s3Q"), struct.Struct("<2Q")
_SESSION, _FILE = struct.Struct("<64s2Q"), struct.Struct("<48s2Q")
_MEMFD, _FOLIO = struct.Struct("<2Q2I2QI2H"), np.dtype([("page", "<u8"), ("index", "<u8")])


@dataclass(frozen=True)
class File:
    """A file that is handed over: a memfd's ``pages`` are physical page numbers, in the file's order."""

    token: int
    at: int
    """Where what describes it begins."""
    position: int
    size: int
    seals: int
    pages: Pages


@dataclass(frozen=True)
class Session:
    """A session that is handed over, and where its entry is."""

    name: str
    at: int
    files: tuple[File, ...]


def find_tree(ram: Ram, announced: bytes) -> int:
    """Return the address of the page that begins with a device tree's first bytes and is handed over itself.

    What was read of the tree may have passed through a buffer that begins a page as well.
    """
    found = []
    head = np.frombuffer(announced, np.uint8)
    for pages, rows in ram.chunks():
        same = (rows[:, : len(head)] == head).all(axis=1)
        found += (pages[same] * PAGE).tolist()
    handed = [at for at in found if _lists_itself(ram, at)] if len(found) > 1 else found
    if len(handed) != 1:
        raise HarnessError(f"the device tree should be in memory once; it is at {list(map(hex, found))}")
    return int(handed[0])


def _lists_itself(ram: Ram, at: int) -> bool:
    try:
        kept = folios(ram, parse_tree(ram.read(at, PAGE)).memory_map)
    except HarnessError:
        return False
    return not without([Region(at, PAGE)], kept)


def folios(ram: Ram, memory_map: int) -> tuple[Region, ...]:
    """Return every preserved folio, in the order of their addresses."""
    found = []
    for key in _keys(ram, memory_map, LEVELS - 1, 0):
        # The highest bit tells the order, what is below it the page number in units of such folios.
        size = 1 << 64 - (key.bit_length() - 1)
        found.append(Region((key * size) & (1 << 64) - 1, size))
    return tuple(sorted(found))


def _keys(ram: Ram, node: int, level: int, key: int) -> Iterator[int]:
    content = ram.array(node, PAGE)
    if level == 0:
        for bit in np.flatnonzero(np.unpackbits(content, bitorder="little")).tolist():
            yield key | bit
        return
    table = content.view(np.uint64)
    for index in np.flatnonzero(table).tolist():
        shift = (level - 1) * TABLE_BITS + BITMAP_BITS
        yield from _keys(ram, int(table[index]), level - 1, key | index << shift)


def liveupdate_number(ram: Ram, luo: Region) -> int:
    """Return how many live updates the kernel that wrote this is the result of, and one more."""
    return int(_luo(ram, luo)[1])


def sessions(ram: Ram, luo: Region) -> tuple[Session, ...]:
    """Return the sessions in the blob ``luo``; a kernel writes them at the very last."""
    found = []
    for at in _entries(ram, _luo(ram, luo)[2], _SESSION.size):
        name, first, count = _SESSION.unpack(ram.read(at, _SESSION.size))
        files = tuple(_file(ram, entry) for entry in _entries(ram, first, _FILE.size))
        if len(files) != count:
            raise HarnessError(f"a session says that it has {count} files, and lists {len(files)}")
        found.append(Session(name.rstrip(b"\0").decode(), at, files))
    return tuple(found)


def _luo(ram: Ram, luo: Region) -> tuple[bytes, int, int, int]:
    abi, number, first, shared = _LUO.unpack(ram.read(luo.start, _LUO.size))
    if luo.size != _LUO.size or abi.rstrip(b"\0") != LUO_ABI:
        raise HarnessError(f"the harness reads {LUO_ABI!r} of {_LUO.size} bytes, not {abi!r} of {luo.size}")
    return abi, number, first, shared


def _entries(ram: Ram, block: int, size: int) -> Iterator[int]:
    """Yield the addresses of entries in a chain of blocks of a page each."""
    seen = set()
    while block:
        if block in seen:
            raise HarnessError(f"a chain of blocks goes round in circles at {block:#x}")
        seen.add(block)
        following, count = _BLOCK.unpack(ram.read(block, _BLOCK.size))
        if not 0 < count <= (PAGE - _BLOCK.size) // size:
            raise HarnessError(f"the block at {block:#x} says that it has {count} entries")
        yield from (block + _BLOCK.size + entry * size for entry in range(count))
        block = following


def _file(ram: Ram, at: int) -> File:
    handler, data, token = _FILE.unpack(ram.read(at, _FILE.size))
    if handler.rstrip(b"\0") != MEMFD_ABI:
        raise HarnessError(f"the harness reads {MEMFD_ABI!r}, not a file of {handler!r}")
    position, size, seals, flags, count, chunk, total, _, order = _MEMFD.unpack(ram.read(data, _MEMFD.size))
    if flags:
        raise HarnessError(f"a memfd has flags that mean nothing: {flags:#x}")
    listed = np.frombuffer(_scattered(ram, chunk, total, order), _FOLIO)[:count]
    pages = (listed["page"] & np.uint64((1 << 52) - 1)).astype(np.int64)
    if listed["index"].tolist() != list(range(count)):
        raise HarnessError("a memfd's folios are not its pages, one by one")
    return File(token, at, position, size, seals, pages)


def _scattered(ram: Ram, chunk: int, total: int, order: int) -> bytes:
    """Return memory that was virtually contiguous: ``total`` pages, in pieces of 2 to the ``order``."""
    pieces: list[bytes] = []
    while chunk and len(pieces) <= total:
        words = ram.array(chunk, PAGE).view(np.uint64)
        pieces += [ram.read(int(piece), PAGE << order) for piece in words[1:] if piece]
        chunk = int(words[0])
    whole = b"".join(pieces)
    if len(whole) != total * PAGE:
        raise HarnessError(f"{len(whole)} bytes are listed of {total} pages")
    return whole
