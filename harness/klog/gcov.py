# SPDX-License-Identifier: MIT
"""gcc's coverage counters: where a program has them, files that gcov reads, the lines that it tells.

units = read_units(vmlinux)                      # one per object file that was instrumented
(folder / "pool.gcda").write_bytes(gcda(units[0], values))
executed([folder / "pool.gcda"])                 # the .gcno stands beside it

All but the counters' values is constant, and is read from the program's ELF file: so nothing is
needed of a kernel but its memory, be it wrecked or not even initialised. The records are gcc's
own, and differ by its version, which they name. Sources: gcc/coverage.cc and gcc/gcov-io.h of gcc
10 to 15, and how kernel/gcov/gcc_4_7.c declares the records.
"""

from __future__ import annotations

import os
import struct
import subprocess
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import msgspec
import numpy as np
import numpy.typing as npt
from elftools.elf.elffile import ELFFile

from harness.errors import HarnessError
from harness.klog.symbols import Symbols

FUNCTION = "__gcov_."
"""How gcc names a function's record; the function's name follows."""
KINDS = {10: 8, 11: 8, 12: 8, 13: 8, 14: 9, 15: 10}
"""Kinds of counters by gcc's version; a record has a pointer for each."""
_MAGIC = int.from_bytes(b"gcda", "big")
_FUNCTION_TAG, _COUNTER_TAG, _TAG_STEP = 0x0100_0000, 0x01A1_0000, 0x0002_0000
_OF_FUNCTION = struct.Struct("<QIII4x")
_OF_COUNTERS = struct.Struct("<I4xQ")

Counts = npt.NDArray[np.uint64]
"""The values of a unit's counters, in the order of its functions."""


class Function(msgspec.Struct, frozen=True):
    """An instrumented function: what tells it in gcov's files, and its counters."""

    ident: int
    lineno_checksum: int
    cfg_checksum: int
    counters: tuple[tuple[int, int, int], ...]
    """(kind, address, number of 64-bit values)"""


class Unit(msgspec.Struct, frozen=True):
    """An object file that was instrumented; ``file`` is where it would write its counters."""

    version: int
    stamp: int
    checksum: int
    file: str
    stamp_at: int
    """Where stamp and checksum are: 8 constant bytes, other ones in each compilation."""
    functions: tuple[Function, ...]

    @property
    def size(self) -> int:
        """How many counters it has."""
        return sum(number for function in self.functions for _, _, number in function.counters)

    @property
    def mark(self) -> bytes:
        """What is at ``stamp_at``."""
        return struct.pack("<II", self.stamp, self.checksum)


class Constants:
    """What an ELF file has for its program's memory, by address. Raises HarnessError for anything else."""

    def __init__(self, file: Path) -> None:
        with file.open("rb") as opened:
            elf = ELFFile(opened)
            if elf["e_type"] != "ET_EXEC":
                raise HarnessError(f"{file} is linked for no fixed address: its pointers are not yet known")
            self._file = file
            self._parts = [
                (int(part["p_vaddr"]), bytes(part.data()))
                for part in elf.iter_segments()
                if part["p_type"] == "PT_LOAD"
            ]

    def read(self, address: int, size: int) -> bytes:
        """Return ``size`` bytes from an address."""
        for start, data in self._parts:
            if start <= address and address + size <= start + len(data):
                return data[address - start : address - start + size]
        raise HarnessError(f"{self._file} has no {size} bytes for {address:#x}")

    def text(self, address: int) -> str:
        """Return the characters from an address to the next zero."""
        for start, data in self._parts:
            if start <= address < start + len(data):
                at = address - start
                return data[at : data.index(b"\0", at)].decode("utf-8", "replace")
        raise HarnessError(f"{self._file} has nothing for {address:#x}")


def read_units(program: Path) -> tuple[Unit, ...]:
    """Return the instrumented object files of a program that is linked for fixed addresses, by name.

    None when it has no counters. Raises HarnessError for a compiler whose records are not known.
    """
    records = Symbols(program).starting(FUNCTION)
    if not records:
        return ()
    constants = Constants(program)
    # A function's record begins with the address of its unit's.
    units = {struct.unpack("<Q", constants.read(address, 8))[0] for address in records}
    return tuple(sorted((_unit(constants, address) for address in units), key=lambda unit: unit.file))


def gcc_version(word: int) -> int:
    """Return the major version of gcc that a record's first word tells: "B22*" is 12.2."""
    tens, ones = word >> 24 & 0xFF, word >> 16 & 0xFF
    version = (tens - ord("A")) * 10 + ones - ord("0")
    if version not in KINDS:
        known = ", ".join(map(str, KINDS))
        raise HarnessError(
            f"these are counters of a gcc that is not known: {word:#x}", advice=f"known are gcc {known}"
        )
    return version


def _unit(constants: Constants, address: int) -> Unit:
    version = struct.unpack("<I", constants.read(address, 4))[0]
    gcc = gcc_version(version)
    # Behind version and the next one's address; since gcc 12 there is a checksum where padding was.
    stamp_at = address + 16
    stamp, checksum, file = struct.unpack("<IIQ", constants.read(stamp_at, 16))
    kinds = np.frombuffer(constants.read(stamp_at + 16, 8 * KINDS[gcc]), np.uint64)
    number, functions = struct.unpack("<I4xQ", constants.read(stamp_at + 16 + 8 * KINDS[gcc], 16))
    used = np.flatnonzero(kinds).tolist()
    places = np.frombuffer(constants.read(functions, 8 * number), np.uint64).tolist()
    found = (_function(constants, place, address, used) for place in places if place)
    return Unit(
        version,
        stamp,
        checksum if gcc >= 12 else 0,
        constants.text(file),
        stamp_at,
        tuple(function for function in found if function is not None),
    )


def _function(constants: Constants, place: int, unit: int, kinds: Sequence[int]) -> Function | None:
    """Read a function's record; None when another unit has the same function, and the counters."""
    key, ident, lineno, cfg = _OF_FUNCTION.unpack(constants.read(place, _OF_FUNCTION.size))
    if key != unit:
        return None
    numbers = _OF_COUNTERS.iter_unpack(
        constants.read(place + _OF_FUNCTION.size, _OF_COUNTERS.size * len(kinds))
    )
    counters = tuple((kind, at, number) for kind, (number, at) in zip(kinds, numbers, strict=True))
    return Function(ident, lineno, cfg, counters)


def gcda(unit: Unit, values: Counts) -> bytes:
    """Return the file from which gcov takes the values of a unit's counters."""
    if len(values) != unit.size:
        raise HarnessError(f"{unit.file} has {unit.size} counters, not {len(values)}")
    gcc = gcc_version(unit.version)
    # Lengths are in bytes since gcc 12, in words of 4 bytes before.
    scale = 4 if gcc >= 12 else 1
    words = [_MAGIC, unit.version, unit.stamp, *([unit.checksum] if gcc >= 12 else [])]
    parts = [struct.pack(f"<{len(words)}I", *words)]
    at = 0
    for function in unit.functions:
        told = function.ident, function.lineno_checksum, function.cfg_checksum
        parts.append(struct.pack("<5I", _FUNCTION_TAG, 3 * scale, *told))
        for kind, _, number in function.counters:
            parts.append(struct.pack("<2I", _COUNTER_TAG + kind * _TAG_STEP, 2 * number * scale))
            parts.append(values[at : at + number].astype("<u8").tobytes())
            at += number
    return b"".join(parts)


class _Line(msgspec.Struct):
    line_number: int
    count: int


class _File(msgspec.Struct):
    file: str
    lines: list[_Line]


class _Told(msgspec.Struct):
    files: list[_File]


def executed(files: Sequence[Path]) -> dict[str, dict[int, int]]:
    """Return how often each line was executed that has code: by file, as the compiler named it, and line.

    ``files`` are .gcda files with their .gcno beside them. Code that stands in several objects, a
    header's for example, is added up. Raises HarnessError when gcov refuses them.
    """
    if not files:
        return {}
    result = subprocess.run(
        ["gcov", "--stdout", "--json-format", *map(str, files)],
        capture_output=True,
        check=False,
        env={**os.environ, "LC_ALL": "C"},
    )
    complaints = [line for line in result.stderr.decode(errors="replace").splitlines() if line.strip()]
    if result.returncode != 0 or complaints:
        raise HarnessError(
            "gcov does not take the counters",
            details="\n".join(complaints[:20]),
            advice="is it the gcov of the gcc that compiled?",
        )
    counts: dict[str, Counter[int]] = {}
    for line in result.stdout.splitlines():
        for file in msgspec.json.decode(line, type=_Told).files:
            counts.setdefault(file.file, Counter()).update({one.line_number: 0 for one in file.lines})
            for one in file.lines:
                counts[file.file][one.line_number] += one.count
    return {file: dict(sorted(lines.items())) for file, lines in counts.items()}
