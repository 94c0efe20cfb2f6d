# SPDX-License-Identifier: MIT
"""Whether a machine's kernels kept to their own: the oracles that look after every test.

    partition = Partition(lab)
    ...                                  # whatever the test does
    for finding in partition.findings(): ...

Three things are looked at from outside, on the frozen machine: pages that were written though nobody
had a reason to (harness.oracle.partition), memory of others that a kernel's page tables map
(harness.oracle.pagetables), and which kernel each vCPU runs (harness.oracle.processors).
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from harness.errors import HarnessError
from harness.klog.symbols import Symbols
from harness.lab import Lab
from harness.model import Evidence, Finding, Layout, Owner, Region
from harness.multikernel.kernel import Resource
from harness.multikernel.layout import HOST, claimed_layout
from harness.oracle.pagetables import Leaves, Mapping, levels_of, walk
from harness.oracle.partition import written_constants, written_free
from harness.oracle.processors import FIRST_MIB, processor_of, strangers
from harness.vm.ram import Ram, ram_of
from harness.vm.ram_pages import PAGE, Pages
from harness.vm.registers import Registers, registers_of
from harness.vm.state import State

ANSWER_LIMIT = 5.0
"""Seconds that the host has to tell its memory map when a test is over, before scaling."""
SHOWN = 12
_RESTARTED = re.compile(r"Linux version |payload: ready|reboot: |Kernel panic")
"""What a kernel prints when it ends, or another begins in its place."""


ZONES = (
    (0xFFFF_FFFF_C000_0000, "modules"),
    (0xFFFF_FFFF_8000_0000, "the kernel's image"),
    (0xFFFF_EA00_0000_0000, "vmemmap"),
    (0xFFFF_C900_0000_0000, "vmalloc"),
    (0xFFFF_8880_0000_0000, "the direct map"),
    (0xFFD4_0000_0000_0000, "vmemmap"),
    (0xFFA0_0000_0000_0000, "vmalloc"),
    (0xFF11_0000_0000_0000, "the direct map"),
)
"""Where a kernel's address space has what, with four and with five levels of page tables.
Source: Documentation/arch/x86/x86_64/mm.rst."""


@dataclass(frozen=True)
class Tables:
    """The page tables of one vCPU: which kernel they are of, and what they map."""

    registers: Registers
    owner: Owner
    leaves: Leaves


class Partition:
    """Watches the kernels of ``lab`` from now on.

    ``layout`` is the claims as they were at the last look.
    """

    def __init__(self, lab: Lab) -> None:
        self.lab = lab
        self.layout: Layout | None = None
        self._marks = {name: console.mark for name, console in lab.machine.consoles.items()}

    def findings(self, *, strays: bool = True, reach: bool = True) -> tuple[Finding, ...]:
        """Return what is not as it should be; nothing when the machine has ended.

        ``strays`` includes pages that were written, ``reach`` what the page tables map. The machine
        stands still meanwhile.
        """
        machine = self.lab.machine
        if machine.state is State.LIVE:
            iomem = self._iomem()
        if machine.state is not State.LIVE:
            return ()
        machine.freeze()
        try:
            ram = ram_of(machine)
            registers = registers_of(machine.qmp)
            self.layout = claimed_layout(ram.regions, self.lab.topology.pool.region, iomem, self.lab.granted)
            tables = self.tables(ram, registers)
            found = [
                *strangers(map(processor_of, registers), self.layout, self.lab.topology.apic_id),
                *(self._strays(ram, tables) if strays else ()),
            ]
            mapped = [(one, self._trespasses(ram, one)) for one in tables if reach]
        finally:
            machine.thaw()
        found += [self._reach(one, mappings) for one, mappings in mapped if mappings]
        return tuple(found)

    def _iomem(self) -> tuple[Resource, ...]:
        """Ask the host for its memory map; one that does not answer has made no instances of late."""
        try:
            return self.lab.host.iomem()
        except HarnessError:
            return ()

    def tables(self, ram: Ram, registers: tuple[Registers, ...]) -> tuple[Tables, ...]:
        """Walk the page tables of every vCPU that runs a Linux which is known to be up; each root once."""
        assert self.layout is not None
        kernels = {HOST, *(pair.spawned.name for pair in self.lab.pairs)}
        found: dict[int, Tables] = {}
        for one in registers:
            root, levels = processor_of(one).cr3, levels_of(one)
            owner = self.layout.owner_of(root)
            if owner is None or root < FIRST_MIB or not levels or root in found:
                continue
            if owner.name in kernels and not self._restarted(owner.name):
                found[root] = Tables(one, owner, walk(ram, root, levels))
        return tuple(found.values())

    def _restarted(self, name: str) -> bool:
        console = self.lab.machine.console(name)
        said = console.transcript[self._marks[name] :].decode("utf-8", "replace")
        return _RESTARTED.search(said) is not None

    def _strays(self, ram: Ram, tables: tuple[Tables, ...]) -> Iterator[Finding]:
        assert self.layout is not None
        written = ram.written()
        strays = [written_free(ram, written, self.layout.free(ram.regions))]
        if ram.forked:
            for one in {one.owner.name: one for one in tables}.values():
                name = one.owner.name
                canaries = self.lab.canaries.get(name, np.empty(0, np.int64))
                strays.append(written_constants(ram, written, canaries, f"{name}'s canaries"))
                constants = self._constants(one)
                strays.append(written_constants(ram, written, constants, f"{name}'s constants (.rodata)"))
        yield from (stray for stray in strays if stray is not None)

    def _constants(self, tables: Tables) -> Pages:
        """Return the pages of a kernel's constants, which are in one piece."""
        symbols = self._symbols(tables.owner.name)
        bounds = _constants_of(symbols) if symbols else None
        start = tables.leaves.translate(bounds.start) if bounds else None
        if bounds is None or start is None:
            return np.empty(0, np.int64)
        return np.arange(start // PAGE, (start + bounds.size) // PAGE)

    def _trespasses(self, ram: Ram, tables: Tables) -> tuple[Mapping, ...]:
        assert self.layout is not None
        return tables.leaves.into(self.layout.foreign(tables.owner.name, ram.regions))

    def _symbols(self, name: str) -> Symbols | None:
        """Return the symbols of a kernel where its vmlinux is at hand."""
        build = self.lab.build
        own = name == HOST or build.definition.spawned_kernel is None
        return _read_symbols(build.vmlinux) if own and build.vmlinux.is_file() else None

    def _place(self, name: str, virtual: int) -> str:
        """Say what made a mapping, as well as it can be known: by the kernel's list of them, by symbol."""
        zone, symbols = _zone(virtual), self._symbols(name)
        if zone == "the kernel's image" and symbols is not None:
            return f"{zone}, {symbols.name(virtual)}"
        if zone == "vmalloc":
            kernel = self.lab.host if name == HOST else self.lab.pair(name).spawned
            try:
                areas = kernel.run("cat /proc/vmallocinfo", timeout=ANSWER_LIMIT).splitlines()
            except HarnessError:
                return zone
            for area in areas:
                start, _, end = area.partition(" ")[0].partition("-")
                if int(start, 16) <= virtual < int(end, 16):
                    return f"{zone}: {' '.join(area.split()[1:])}"
        return zone

    def _reach(self, tables: Tables, mappings: tuple[Mapping, ...]) -> Finding:
        assert self.layout is not None
        size = sum(one.physical.size for one in mappings)
        lines = []
        for one in mappings[:SHOWN]:
            whose = self.layout.owner_of(one.physical.start)
            place = self._place(tables.owner.name, one.virtual)
            lines.append(f"{one}, memory of {whose.name if whose else 'nobody'}; mapped in {place}")
        registers = tables.registers
        return Finding(
            f"{tables.owner.name} maps {size >> 10} KiB that are not its own (vCPU {registers.index})",
            (Evidence(f"{len(mappings)} mappings from CR3 {registers['CR3']:#x}", "\n".join(lines)),),
        )


@functools.cache
def _read_symbols(vmlinux: Path) -> Symbols:
    return Symbols(vmlinux)


def _constants_of(symbols: Symbols) -> Region | None:
    start, end = symbols.address("__start_rodata"), symbols.address("__end_rodata")
    return Region(start, end - start) if start is not None and end is not None and end > start else None


def _zone(virtual: int) -> str:
    """Name the part of a kernel's address space, where it is not randomised."""
    return next((name for start, name in ZONES if virtual >= start), "user space")
