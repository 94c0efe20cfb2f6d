# SPDX-License-Identifier: MIT
"""A machine's touched memory and registers as an ELF core file, for gdb, drgn, crash and readelf.

QEMU's dump-guest-memory reads every page, which fills the holes of a fork's template; this writes
what was touched. Sources: elf(5); struct elf_prstatus in include/linux/elfcore.h; note VMCOREINFO
in Documentation/admin-guide/kdump/vmcoreinfo.rst; addresses in Documentation/arch/x86/x86_64/mm.rst.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from harness.errors import HarnessError
from harness.model import Region, common
from harness.vm.ram import Ram
from harness.vm.ram_pages import PAGE, Bytes, Pages
from harness.vm.ram_scan import find
from harness.vm.registers import Registers

DIRECT_MAP = 0xFFFF_8880_0000_0000
"""Where Linux has all RAM with four levels of page tables and without CONFIG_RANDOMIZE_MEMORY."""
KERNEL_MAP = 0xFFFF_FFFF_8000_0000
KERNEL_SIZE = 512 << 20
"""The mapping of the kernel's own code and data; it begins at physical address phys_base."""
GAP = 16
"""Untouched pages that are written, too, when that saves a segment."""
_EHDR = struct.Struct("<16sHHIQQQIHHHHHH")
_PHDR = struct.Struct("<IIQQQQQQ")
_PT_LOAD, _PT_NOTE, _ET_CORE, _EM_X86_64, _NT_PRSTATUS = 1, 4, 4, 62, 1
_GENERAL = (
    "R15",
    "R14",
    "R13",
    "R12",
    "RBP",
    "RBX",
    "R11",
    "R10",
    "R9",
    "R8",
    "RAX",
    "RCX",
    "RDX",
    "RSI",
    "RDI",
)
_MAX_SEGMENTS = 0xFFFE
_INFO_SIZE = PAGE
"""The kernel's own copy of VMCOREINFO takes at most a page."""


@dataclass(frozen=True)
class VmcoreInfo:
    """What a kernel says about itself for readers of its dump; ``address`` is where it stands."""

    address: int
    text: bytes

    @property
    def release(self) -> str:
        """The kernel's version, as ``uname -r`` prints it."""
        return self.text.partition(b"\n")[0].removeprefix(b"OSRELEASE=").decode("utf-8", "replace")

    @property
    def phys_base(self) -> int | None:
        """Where the kernel's mapping begins in guest-physical memory, or None when it does not say."""
        found = re.search(rb"^NUMBER\(phys_base\)=(-?\d+)$", self.text, re.MULTILINE)
        # It can be negative; some kernels print that as a number of 64 bits without a sign.
        return (int(found[1]) + (1 << 63)) % (1 << 64) - (1 << 63) if found else None


def find_vmcoreinfo(ram: Ram, within: Iterable[Region] | None = None) -> tuple[VmcoreInfo, ...]:
    """Return the VMCOREINFO of each kernel in memory, or in the regions ``within``, by address.

    A kernel built without CONFIG_VMCORE_INFO has none; one that has ended leaves its own behind.
    """
    result = []
    for address in find(ram, b"OSRELEASE=", within):
        # The kernel writes it into a page of its own, and copies it to a note behind some header.
        if address % PAGE:
            continue
        end = min(_INFO_SIZE, *(r.end - address for r in ram.regions if r.start <= address < r.end))
        text = ram.read(address, end).partition(b"\0")[0]
        if re.match(rb"OSRELEASE=[ -~]+\n(?:[ -~]+\n)*PAGESIZE=4096\n(?:[ -~]+\n)*\Z", text):
            result.append(VmcoreInfo(address, text))
    return tuple(result)


def write_vmcore(
    ram: Ram, registers: Sequence[Registers], path: Path, info: VmcoreInfo | None = None
) -> None:
    """Write a core file of the memory to ``path``; the machine should be frozen.

    ``info`` is that of the kernel to look at: machines have several. With it, drgn knows the file as
    a kernel's, and gdb finds that kernel's code and data where its vmlinux has them. Registers are
    threads, vCPU 0 the first. Raises HarnessError when the file cannot be written.
    """
    pages = ram.touched()
    loads = _loads(pages, ram.regions)
    notes = b"".join(_prstatus(vcpu) for vcpu in registers)
    if info is not None:
        notes += _note(b"VMCOREINFO", 0, info.text)
    views = views_of(loads, info)
    if len(views) >= _MAX_SEGMENTS:
        raise HarnessError(f"the guest's memory is in {len(loads)} pieces, too many for a core file")
    try:
        _write(path, loads, views, notes, ram.chunks(pages))
    except OSError as error:
        raise HarnessError(f"the core file {path} cannot be written: {error.strerror}") from None


def views_of(loads: Sequence[Region], info: VmcoreInfo | None) -> list[tuple[int, Region]]:
    """Return which physical memory a kernel sees at which virtual address, of what is in a core file."""
    views: list[tuple[int, Region]] = []
    if info is not None and info.phys_base is not None:
        start = max(info.phys_base, 0)
        # Of a region of which a part is in there gdb sees that part.
        kernel = Region(start, info.phys_base + KERNEL_SIZE - start)
        views = [(KERNEL_MAP + part.start - info.phys_base, part) for part in common(loads, [kernel])]
    return views + [(DIRECT_MAP + load.start, load) for load in loads]


def _loads(pages: Pages, regions: Sequence[Region]) -> list[Region]:
    """Return what goes into the file: touched pages, with small gaps between them."""
    if not len(pages):
        return []
    apart = np.diff(pages) > GAP + 1
    starts, ends = pages[np.r_[True, apart]], pages[np.r_[apart, True]] + 1
    joined = [
        Region(start * PAGE, (end - start) * PAGE)
        for start, end in zip(starts.tolist(), ends.tolist(), strict=True)
    ]
    return list(common(joined, regions)) if len(regions) > 1 else joined


def _write(
    path: Path,
    loads: list[Region],
    views: list[tuple[int, Region]],
    notes: bytes,
    chunks: Iterator[tuple[Pages, Bytes]],
) -> None:
    headers = _EHDR.size + (1 + len(views)) * _PHDR.size
    begin = -(-(headers + len(notes)) // PAGE) * PAGE
    starts = np.array([load.start for load in loads], np.int64)
    sizes = np.array([load.size for load in loads], np.int64)
    places = begin + np.cumsum(sizes) - sizes

    def place(address: int) -> int:
        load = int(np.searchsorted(starts, address, "right")) - 1
        return int(places[load] + address - starts[load])

    ident = b"\x7fELF\x02\x01\x01" + bytes(9)
    with path.open("wb") as file:
        file.write(
            _EHDR.pack(
                ident, _ET_CORE, _EM_X86_64, 1, 0, _EHDR.size, 0, 0, _EHDR.size, _PHDR.size, 1 + len(views),
                0, 0, 0,
            )
        )  # fmt: skip
        file.write(_PHDR.pack(_PT_NOTE, 0, headers, 0, 0, len(notes), len(notes), 4))
        for virtual, part in views:
            file.write(
                _PHDR.pack(_PT_LOAD, 7, place(part.start), virtual, part.start, part.size, part.size, PAGE)
            )
        file.write(notes)
        file.truncate(begin + int(sizes.sum()))
        for numbers, rows in chunks:
            cuts = np.flatnonzero(np.diff(numbers) != 1) + 1
            for start, end in zip([0, *cuts.tolist()], [*cuts.tolist(), len(numbers)], strict=True):
                file.seek(place(int(numbers[start]) * PAGE))
                file.write(rows[start:end].data)


def _prstatus(vcpu: Registers) -> bytes:
    """Return the note with a vCPU's registers; its "process id" is the vCPU's number plus 1."""
    values, segments = vcpu.values, vcpu.segments
    words = [values.get(name, 0) for name in _GENERAL]
    # orig_rax: -1 means that no system call is under way.
    words += [(1 << 64) - 1, values["RIP"], segments["CS"].selector, values["RFL"], values["RSP"]]
    words += [segments["SS"].selector, segments["FS"].base, segments["GS"].base]
    words += [segments[name].selector for name in ("DS", "ES", "FS", "GS")]
    status = struct.pack("<32xI76x27Q8x", vcpu.index + 1, *words)
    return _note(b"CORE", _NT_PRSTATUS, status)


def _note(name: bytes, kind: int, data: bytes) -> bytes:
    name += b"\0"
    padded = (part + bytes(-len(part) % 4) for part in (name, data))
    return struct.pack("<III", len(name), len(data), kind) + b"".join(padded)
