# SPDX-License-Identifier: MIT
"""Names for addresses in a kernel's modules: the list is read from memory, the names from the .ko files."""

from __future__ import annotations

import io
import struct
from collections.abc import Iterator
from functools import cache
from pathlib import Path, PurePosixPath

from elftools.elf.elffile import ELFFile
from elftools.elf.sections import SymbolTableSection

from harness.diagnose.images import Image
from harness.diagnose.space import Space

_LIST, _NAME, _NAME_SIZE = 8, 24, 56
"""Where in struct module its place in the list and its name are. Source: include/linux/module.h."""
_SCANNED = 2048
"""Bytes of a struct module in which the place of its code is looked for."""
_MAX = 64


def in_module(image: Image, space: Space, address: int) -> tuple[str, str, int, int] | None:
    """Return module, function, place in it and its size for an address, None where it is in no module.

    Where no function is known its name is empty, and the place is that in the module's code.
    """
    for name, start, _ in _texts(image, space, address):
        return name, *_function(image.initrd, name, address - start)
    return None


def _texts(image: Image, space: Space, address: int) -> Iterator[tuple[str, int, int]]:
    """Yield the module whose code an address is in: its name, where the code begins, its size.

    Where struct module has that differs by configuration: it is a page's address with a size behind it.
    """
    symbols = image.symbols
    head = symbols.address("modules") if symbols is not None else None
    if head is None:
        return
    at = space.word(head + image.offset)
    for _ in range(_MAX):
        if at is None or at == head + image.offset:
            return
        data = space.read(at - _LIST, _SCANNED)
        if data is None:
            return
        name = data[_NAME : _NAME + _NAME_SIZE].partition(b"\0")[0].decode("ascii", "replace")
        for place in range(_NAME + _NAME_SIZE, len(data) - 16, 8):
            start, first, second = struct.unpack_from("<QII", data, place)
            size = second if first <= 1 else first
            if start and not start % 4096 and start <= address < start + size <= start + (64 << 20):
                yield name, start, size
                return
        at = space.word(at)


@cache
def _function(initrd: Path, module: str, offset: int) -> tuple[str, int, int]:
    content = _member(initrd, f"{module}.ko")
    if content is None:
        return "", offset, 0
    elf = ELFFile(io.BytesIO(content))
    table, text = elf.get_section_by_name(".symtab"), elf.get_section_index(".text")
    if not isinstance(table, SymbolTableSection) or text is None:
        return "", offset, 0
    for symbol in table.iter_symbols():
        inside = offset - symbol["st_value"]
        known = symbol["st_shndx"] == text and symbol["st_info"]["type"] == "STT_FUNC"
        if known and 0 <= inside < symbol["st_size"]:
            return symbol.name, inside, symbol["st_size"]
    return "", offset, 0


@cache
def _member(archive: Path, name: str) -> bytes | None:
    """Return a file of a newc cpio archive, by its last name."""
    try:
        data = archive.read_bytes()
    except OSError:
        return None
    at = 0
    while data[at : at + 6] == b"070701":
        fields = [int(data[at + 6 + 8 * n : at + 14 + 8 * n], 16) for n in range(13)]
        size, length = fields[6], fields[11]
        path = data[at + 110 : at + 110 + length - 1].decode("utf-8", "replace")
        begin = at + (110 + length + 3) // 4 * 4
        if path == "TRAILER!!!":
            return None
        if PurePosixPath(path).name == name:
            return data[begin : begin + size]
        at = begin + (size + 3) // 4 * 4
    return None
