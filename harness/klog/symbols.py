# SPDX-License-Identifier: MIT
"""A kernel's symbols: names for its addresses and addresses for its names, from its vmlinux."""

from __future__ import annotations

import re
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt
from elftools.elf.elffile import ELFFile

from harness.errors import HarnessError

_SYMBOL = np.dtype(
    [("name", "<u4"), ("info", "u1"), ("other", "u1"), ("section", "<u2"), ("value", "<u8"), ("size", "<u8")]
)
"""Elf64_Sym. Source: the System V ABI, chapter 4."""
_FUNCTION = 2
"""STT_FUNC."""
_KERNEL = 0xFFFF_FFFF_8000_0000
"""Below are no addresses, but offsets of per-CPU data and sizes."""


class Symbols:
    """The symbol table of ``vmlinux``. Raises HarnessError when the file has none."""

    def __init__(self, vmlinux: Path) -> None:
        try:
            with vmlinux.open("rb") as file:
                elf = ELFFile(file)
                table, names = elf.get_section_by_name(".symtab"), elf.get_section_by_name(".strtab")
                if table is None or names is None:
                    raise HarnessError(
                        f"{vmlinux} has no symbols", advice="give a vmlinux that is not stripped"
                    )
                self._symbols = np.frombuffer(table.data(), _SYMBOL)
                self._names = bytes(names.data())
        except OSError as error:
            raise HarnessError(f"{vmlinux} cannot be read: {error.strerror}") from None

    def address(self, name: str) -> int | None:
        """Return a symbol's address, None when there is none of this name."""
        wanted = name.encode() + b"\0"
        at = self._names.find(wanted)
        while at >= 0:
            # Names may share their ends, so each place where these bytes stand may be meant.
            found = np.flatnonzero(self._symbols["name"] == at)
            if len(found):
                return int(self._symbols["value"][found[0]])
            at = self._names.find(wanted, at + 1)
        return None

    def starting(self, prefix: str) -> dict[int, str]:
        """Return the symbols whose names start with ``prefix``, by address."""
        begins = [
            match.start() + 1 for match in re.finditer(b"\\0" + re.escape(prefix.encode()), self._names)
        ]
        found = np.flatnonzero(np.isin(self._symbols["name"], begins))
        return {int(self._symbols["value"][at]): self._name(int(at)) for at in found}

    def name(self, address: int) -> str:
        """Return what is at an address: ``function+0x12``, or the bare address outside the kernel."""
        values, places = self._sorted
        at = int(np.searchsorted(values, np.uint64(address), "right")) - 1
        if at < 0 or address < _KERNEL:
            return f"{address:#x}"
        return f"{self._name(int(places[at]))}+{address - int(values[at]):#x}"

    def function(self, address: int) -> tuple[str, int, int] | None:
        """Return the function that an address is in: its name, the place in it, its size."""
        values, places = self._functions
        at = int(np.searchsorted(values, np.uint64(address), "right")) - 1
        if at < 0:
            return None
        size = int(self._symbols["size"][places[at]])
        inside = address - int(values[at])
        return (self._name(int(places[at])), inside, size) if inside < max(size, 1) else None

    def functions(self, name: str) -> list[tuple[int, int]]:
        """Return address and size of each function of a name: several files may have one."""
        wanted, found = b"\0" + name.encode() + b"\0", []
        at = self._names.find(wanted)
        while at >= 0:
            for place in np.flatnonzero(self._symbols["name"] == at + 1):
                if self._symbols["info"][place] & 15 == _FUNCTION:
                    found.append((int(self._symbols["value"][place]), int(self._symbols["size"][place])))
            at = self._names.find(wanted, at + 1)
        return found

    def _name(self, place: int) -> str:
        begin = int(self._symbols["name"][place])
        return self._names[begin : self._names.index(b"\0", begin)].decode("ascii", "replace")

    @cached_property
    def _functions(self) -> tuple[npt.NDArray[np.uint64], npt.NDArray[np.intp]]:
        """Return the addresses of functions in ascending order, and their places."""
        wanted = np.flatnonzero(
            (self._symbols["value"] >= _KERNEL) & (self._symbols["info"] & 15 == _FUNCTION)
        )
        order = wanted[np.argsort(self._symbols["value"][wanted], kind="stable")]
        return self._symbols["value"][order], order

    @cached_property
    def _sorted(self) -> tuple[npt.NDArray[np.uint64], npt.NDArray[np.intp]]:
        """Return the addresses of functions and objects in ascending order, and their places."""
        kinds = self._symbols["info"] & 15
        wanted = np.flatnonzero((self._symbols["value"] >= _KERNEL) & (kinds <= 2))
        order = wanted[np.argsort(self._symbols["value"][wanted], kind="stable")]
        return self._symbols["value"][order], order
