# SPDX-License-Identifier: MIT
"""The kernels in a core file of a whole machine, and a core file for each of them.

A machine's memory holds several kernels at the same virtual addresses. gdb and drgn look at one kernel:
its view of the memory, its processors, its VMCOREINFO. Which kernel is where, the memory itself says: each
has a VMCOREINFO with where it was loaded, a host name, and its processors' per-CPU areas.
"""

from __future__ import annotations

import functools
import mmap
import re
import shutil
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Self

import numpy as np

from harness.errors import HarnessError
from harness.klog.symbols import Symbols
from harness.model import Region
from harness.oracle.pagetables import walk
from harness.vm.ram_pages import PAGE, Bytes, Pages
from harness.vm.vmcore import DIRECT_MAP, KERNEL_MAP, KERNEL_SIZE, VmcoreInfo, views_of

_EHDR = struct.Struct("<16sHHIQQQIHHHHHH")
_PHDR = struct.Struct("<IIQQQQQQ")
_NHDR = struct.Struct("<III")
_PT_LOAD, _PT_NOTE = 1, 4
_GS_BASE = 32 + 4 + 76 + 22 * 8
"""Where in struct elf_prstatus the base of GS is: the 23rd register."""
_VMALLOC, _VMEMMAP, _VMEMMAP_SIZE = 0xFFFF_C900_0000_0000, 0xFFFF_EA00_0000_0000, 1 << 40
"""vmalloc's addresses and, above them, struct page's, where the kernel did not choose others."""
_MODULES = (KERNEL_MAP + KERNEL_SIZE, 0xFFFF_FFFF_FF00_0000)
"""Modules, and what a kernel that chose its address (KASLR) has of itself there. Source of all of these:
Documentation/arch/x86/x86_64/mm.rst."""
_CPUS = 512
"""Entries of __per_cpu_offset that are looked at."""
_NODENAME = 65
"""Bytes of each field in struct new_utsname: the system's name, then the host's."""
_INFO = re.compile(rb"OSRELEASE=[ -~]+\n(?:[ -~]+\n)*PAGESIZE=4096\n(?:[ -~]+\n)*")
_OFFSET = re.compile(rb"^KERNELOFFSET=([0-9a-f]+)$", re.MULTILINE)


@dataclass(frozen=True)
class Found:
    """A kernel in a core file. ``offset`` is how far from vmlinux' addresses it is.

    ``threads`` are its processors: (number in this kernel, vCPU).
    """

    name: str
    vmlinux: Path
    info: VmcoreInfo
    offset: int
    threads: tuple[tuple[int, int], ...]


class Core:
    """A core file as harness.vm.vmcore writes it, open while the ``with`` block lasts."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.loads: list[tuple[Region, int]] = []
        """Physical memory that is in the file, and where in it."""
        self.vcpus: list[bytes] = []
        """The notes with the registers of each vCPU."""

    def __enter__(self) -> Self:
        try:
            self._file = self.path.open("rb")
            self._map = mmap.mmap(self._file.fileno(), 0, access=mmap.ACCESS_READ)
            self._read_headers()
        except (OSError, ValueError, struct.error) as error:
            raise HarnessError(f"{self.path} cannot be read as a core file: {error}") from None
        return self

    def __exit__(self, *_: object) -> None:
        self._map.close()
        self._file.close()

    def _read_headers(self) -> None:
        header = _EHDR.unpack_from(self._map)
        if header[0][:4] != b"\x7fELF":
            raise HarnessError(f"{self.path} is no core file")
        for number in range(header[10]):
            kind, _, offset, virtual, physical, size, _, _ = _PHDR.unpack_from(
                self._map, header[5] + number * _PHDR.size
            )
            if kind == _PT_LOAD and virtual < KERNEL_MAP:
                self.loads.append((Region(physical, size), offset))
            elif kind == _PT_NOTE:
                self.vcpus = [
                    note
                    for note, name, kind in _notes(self._map[offset : offset + size])
                    if (name, kind) == (b"CORE\0", 1)
                ]

    @property
    def regions(self) -> tuple[Region, ...]:
        """The physical memory that is in the file."""
        return tuple(region for region, _ in self.loads)

    def rows(self, pages: Pages) -> Bytes:
        """Return pages by their numbers, a row each; what is not in the file is zeros."""
        found = b"".join(self.read(number * PAGE, PAGE) for number in pages.tolist())
        return np.frombuffer(found, np.uint8).reshape(-1, PAGE)

    def read(self, address: int, size: int) -> bytes:
        """Return physical memory; what is not in the file reads as zeros."""
        for region, offset in self.loads:
            if region.start <= address < region.end:
                there = min(size, region.end - address)
                at = offset + address - region.start
                return self._map[at : at + there].ljust(size, b"\0")
        return bytes(size)

    @cached_property
    def infos(self) -> tuple[VmcoreInfo, ...]:
        """Return every kernel's VMCOREINFO, by address; of a kernel that has ended, too."""
        found = []
        for region, offset in self.loads:
            at = self._map.find(b"OSRELEASE=", offset, offset + region.size)
            while at >= 0:
                address = region.start + at - offset
                if not address % PAGE:
                    text = self._map[at : at + PAGE].partition(b"\0")[0]
                    if _INFO.fullmatch(text):
                        found.append(VmcoreInfo(address, text))
                at = self._map.find(b"OSRELEASE=", at + 1, offset + region.size)
        return tuple(found)

    def kernels(self, vmlinux: Mapping[str, Path]) -> tuple[Found, ...]:
        """Return the kernels that are there, of those whose vmlinux is given by name."""
        found: dict[str, Found] = {}
        unnamed: list[VmcoreInfo] = []
        for info in self.infos:
            matching = [
                (name, self._known(name, path, info)) for name, path in vmlinux.items() if path.is_file()
            ]
            hit = next((one for name, one in matching if one is not None and self._name(one) == name), None)
            if hit is None:
                unnamed.append(info)
            elif hit.name not in found or hit.threads:
                found[hit.name] = hit
        missing = [name for name in vmlinux if name not in found and vmlinux[name].is_file()]
        if len(missing) == 1 and len(unnamed) == 1:
            # It has not set its name yet.
            one = self._known(missing[0], vmlinux[missing[0]], unnamed[0])
            found |= {missing[0]: one} if one is not None else {}
        return tuple(found[name] for name in vmlinux if name in found)

    def _known(self, name: str, vmlinux: Path, info: VmcoreInfo) -> Found | None:
        symbols = _symbols(vmlinux)
        moved = _OFFSET.search(info.text)
        offset = int(moved[1], 16) if moved else 0
        base = info.phys_base
        areas = symbols.address("__per_cpu_offset")
        if base is None or areas is None:
            return None
        table = self.read(base + areas + offset - KERNEL_MAP, 8 * _CPUS)
        numbers = {area: cpu for cpu, (area,) in reversed(list(enumerate(struct.iter_unpack("<Q", table))))}
        threads = []
        for vcpu, note in enumerate(self.vcpus):
            (gs,) = struct.unpack_from("<Q", note, _NHDR.size + 8 + _GS_BASE)
            if gs >> 63 and gs in numbers:
                threads.append((numbers[gs], vcpu))
        return Found(name, vmlinux, info, offset, tuple(sorted(threads)))

    def _name(self, kernel: Found) -> str:
        """Return the host name that a kernel has."""
        uts = _symbols(kernel.vmlinux).address("init_uts_ns")
        if uts is None or kernel.info.phys_base is None:
            return ""
        there = self.read(kernel.info.phys_base + uts + kernel.offset - KERNEL_MAP, 8 * _NODENAME)
        at = there.find(b"Linux\0")
        name = there[at + _NODENAME : at + 2 * _NODENAME].partition(b"\0")[0] if at >= 0 else b""
        return name.decode("ascii", "replace")

    def write_for(self, kernel: Found, path: Path) -> None:
        """Write a core file of this kernel's view to ``path``. Raises HarnessError."""
        code = [
            (virtual, part) for virtual, part in views_of(self.regions, kernel.info) if virtual >= KERNEL_MAP
        ]
        start = self._base(kernel, "page_offset_base", DIRECT_MAP)
        views = [*code, *((start + part.start, part) for part in self.regions), *self._mapped(kernel)]
        notes = b"".join(self._thread(number, vcpu) for number, vcpu in kernel.threads)
        notes += _note(b"VMCOREINFO\0", 0, kernel.info.text)
        try:
            shutil.copyfile(self.path, path)
            with path.open("r+b") as file:
                at = file.seek(0, 2)
                table = at + len(notes) + -len(notes) % 8
                header = list(_EHDR.unpack_from(self._map))
                header[5], header[10] = table, 1 + len(views)
                file.write(notes.ljust(table - at, b"\0"))
                file.write(_PHDR.pack(_PT_NOTE, 0, at, 0, 0, len(notes), len(notes), 4))
                for virtual, part in views:
                    place = self._place(part.start)
                    file.write(
                        _PHDR.pack(_PT_LOAD, 7, place, virtual, part.start, part.size, part.size, PAGE)
                    )
                file.seek(0)
                file.write(_EHDR.pack(*header))
        except OSError as error:
            raise HarnessError(f"the core file {path} cannot be written: {error.strerror}") from None

    def _mapped(self, kernel: Found) -> list[tuple[int, Region]]:
        """Return what a kernel has mapped by page tables of its own: stacks, modules, what it vmalloc'ed."""
        root = _symbols(kernel.vmlinux).address("init_top_pgt")
        if root is None or kernel.info.phys_base is None:
            return []
        physical = kernel.info.phys_base + root + kernel.offset - KERNEL_MAP
        vmalloc, vmemmap = (
            self._base(kernel, name, usual)
            for name, usual in (("vmalloc_base", _VMALLOC), ("vmemmap_base", _VMEMMAP))
        )
        own = ((vmalloc, vmemmap + _VMEMMAP_SIZE), _MODULES)
        levels = 5 if b"NUMBER(pgtable_l5_enabled)=1\n" in kernel.info.text else 4
        mappings = walk(self, physical, levels).into(self.regions)
        return [
            (one.virtual, one.physical)
            for one in mappings
            if any(start <= one.virtual < end for start, end in own)
        ]

    def _base(self, kernel: Found, name: str, usual: int) -> int:
        """Return where a kernel has a part of its address space: it says so where it may choose."""
        variable = _symbols(kernel.vmlinux).address(name)
        if variable is None or kernel.info.phys_base is None:
            return usual
        there = self.read(kernel.info.phys_base + variable + kernel.offset - KERNEL_MAP, 8)
        return int.from_bytes(there, "little") or usual

    def _place(self, address: int) -> int:
        return next(
            offset + address - region.start
            for region, offset in self.loads
            if region.start <= address < region.end
        )

    def _thread(self, number: int, vcpu: int) -> bytes:
        """Return a vCPU's note as that of a kernel's processor: its "process id" is the number plus 1."""
        note = bytearray(self.vcpus[vcpu])
        struct.pack_into("<I", note, _NHDR.size + 8 + 32, number + 1)
        return bytes(note)


@functools.cache
def _symbols(vmlinux: Path) -> Symbols:
    return Symbols(vmlinux)


def _notes(data: bytes) -> Iterator[tuple[bytes, bytes, int]]:
    """Yield each note whole, its name and its kind."""
    at = 0
    while at + _NHDR.size <= len(data):
        name, size, kind = _NHDR.unpack_from(data, at)
        end = at + _NHDR.size + name + -name % 4 + size + -size % 4
        yield data[at:end], data[at + _NHDR.size : at + _NHDR.size + name], kind
        at = end


def _note(name: bytes, kind: int, data: bytes) -> bytes:
    padded = (part + bytes(-len(part) % 4) for part in (name, data))
    return _NHDR.pack(len(name), len(data), kind) + b"".join(padded)
