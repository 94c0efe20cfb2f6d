# SPDX-License-Identifier: MIT
"""A vCPU's virtual memory, a word at a time, by its page tables."""

from __future__ import annotations

from harness.errors import HarnessError
from harness.oracle.pagetables import levels_of
from harness.vm.ram import Ram
from harness.vm.registers import Registers

_PRESENT, _LARGE, _ADDRESS = 1, 0x80, 0x000F_FFFF_FFFF_F000


class Space:
    """What a vCPU with these ``registers`` sees of a machine's memory, which should stand still."""

    def __init__(self, ram: Ram, registers: Registers) -> None:
        self._ram = ram
        self._root = registers["CR3"] & _ADDRESS
        self._levels = levels_of(registers)
        self._known: dict[int, int | None] = {}

    def read(self, address: int, size: int) -> bytes | None:
        """Return the bytes at a virtual address, None where not all of them are mapped RAM."""
        found = b""
        while size:
            part = min(size, 4096 - address % 4096)
            page = self._page(address & -4096)
            if page is None:
                return None
            try:
                found += self._ram.read(page + address % 4096, part)
            except HarnessError:
                return None
            address, size = address + part, size - part
        return found

    def word(self, address: int) -> int | None:
        """Return the 64-bit word at a virtual address."""
        data = self.read(address, 8) if 0 <= address < 1 << 64 else None
        return None if data is None else int.from_bytes(data, "little")

    def _page(self, address: int) -> int | None:
        if address not in self._known:
            self._known[address] = self._translate(address)
        return self._known[address]

    def _translate(self, address: int) -> int | None:
        if not self._levels:
            return address
        table = self._root
        for level in range(self._levels, 0, -1):
            shift = 12 + 9 * (level - 1)
            try:
                data = self._ram.read(table + (address >> shift & 511) * 8, 8)
            except HarnessError:
                return None
            entry = int.from_bytes(data, "little")
            if not entry & _PRESENT:
                return None
            table = entry & _ADDRESS
            if level == 1 or (entry & _LARGE and level < 4):
                inside = (1 << shift) - 1
                return (table & ~inside) + (address & inside)
        return None
