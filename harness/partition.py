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
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from harness.errors import HarnessError
from harness.klog.symbols import Symbols
from harness.lab import Lab
from harness.mappings import origin
from harness.model import Evidence, Finding, FixedArea, Layout, Owner, Region, common, merged, without
from harness.multikernel.kernel import Kernel, Resource
from harness.multikernel.layout import HOST, claimed_layout
from harness.oracle.pagetables import Leaves, Mapping, levels_of, walk
from harness.oracle.partition import pages_in, written_constants, written_free
from harness.oracle.processors import FIRST_MIB, processor_of, strangers
from harness.vm.ram import Ram, ram_of
from harness.vm.ram_pages import PAGE, Pages
from harness.vm.registers import Registers, registers_of
from harness.vm.state import State

FREE, FIXED = "nobody", "agreed on"
"""Whose memory is that has no owner."""
SHOWN = 12
"""Mappings that a finding shows."""
_RESTARTED = re.compile(r"Linux version |payload: ready|reboot: |Kernel panic")
"""What a kernel prints when it ends, or another begins in its place."""


@dataclass(frozen=True)
class Tables:
    """The page tables of one vCPU: which kernel they are of, and what they map."""

    registers: Registers
    owner: Owner
    leaves: Leaves


@dataclass(frozen=True)
class Look:
    """One look at a frozen machine: the claims on its memory, its vCPUs, the kernels' page tables.

    ``tables`` has one entry for each page table root that a vCPU uses, of kernels known to be up.
    """

    ram: Ram
    layout: Layout
    registers: tuple[Registers, ...]
    tables: tuple[Tables, ...]


@dataclass(frozen=True)
class Part:
    """A stretch of RAM with one claim on it: ``written`` pages since the fork, bytes ``mapped`` by kernel."""

    region: Region
    claim: str
    why: str
    written: int
    mapped: dict[str, int]


class Partition:
    """Watches the kernels of ``lab`` from now on.

    ``fixed`` is the memory that was agreed on as nobody's alone, at the last look, ``last_iomem`` the host's
    memory map, empty until it was asked for. ``looked`` says
    whether there was one: a machine that has ended is not looked at.
    """

    def __init__(self, lab: Lab) -> None:
        self.lab = lab
        self.fixed: tuple[FixedArea, ...] = ()
        self.looked = False
        self.last_iomem: tuple[Resource, ...] = ()
        self._marks = {name: console.mark for name, console in lab.machine.consoles.items()}

    def findings(self, *, strays: bool = True, reach: bool = True) -> tuple[Finding, ...]:
        """Return what is not as it should be; nothing when the machine has ended.

        ``strays`` includes pages that were written, ``reach`` what the page tables map. The machine
        stands still meanwhile.
        """
        found: list[Finding] = []
        reached: list[tuple[Tables, tuple[Mapping, ...]]] = []
        with self.look() as look:
            if look is None:
                return ()
            found += strangers(map(processor_of, look.registers), look.layout, self.lab.topology.apic_id)
            if strays:
                found += self._strays(look)
            if reach:
                reached = [(one, trespasses(look, one)) for one in look.tables]
        for name in dict.fromkeys(tables.owner.name for tables, mappings in reached if mappings):
            found.append(self._reach(look, [one for one in reached if one[0].owner.name == name and one[1]]))
        return tuple(found)

    def map(self) -> tuple[Part, ...]:
        """Return the machine's memory as a map to draw; empty when the machine has ended."""
        with self.look(stopped=True) as look:
            return () if look is None else parts_of(look)

    @contextmanager
    def look(self, *, stopped: bool = False) -> Iterator[Look | None]:
        """Yield what is to be seen of the machine, which is frozen meanwhile; None when it has ended.

        With ``stopped`` one that stands still already is looked at, too, and stays so; its host's memory
        map is that of the last look.
        """
        machine = self.lab.machine
        iomem = self._iomem()
        stood = stopped and machine.state is State.FROZEN
        if machine.state is not State.LIVE and not stood:
            yield None
            return
        if not stood:
            machine.freeze()
        try:
            ram, registers = ram_of(machine), registers_of(machine.qmp)
            pool = self.lab.topology.pool.region if self.lab.dialect.pooled else None
            layout = claimed_layout(ram.regions, pool, iomem, self.lab.granted)
            self.fixed, self.looked = layout.fixed, True
            yield Look(ram, layout, registers, self.tables(ram, layout, registers))
        finally:
            if not stood and machine.ended() is None:
                machine.thaw()

    def _iomem(self) -> tuple[Resource, ...]:
        """Ask the host for its memory map; one that does not answer has made no instances of late."""
        if self.lab.machine.state is not State.LIVE:
            return self.last_iomem
        try:
            self.last_iomem = self.lab.host.iomem()
        except HarnessError:
            return ()
        return self.last_iomem

    def tables(self, ram: Ram, layout: Layout, registers: Sequence[Registers]) -> tuple[Tables, ...]:
        """Walk the page tables that vCPUs use, of kernels known to be up; each root once."""
        kernels = {HOST, *(pair.spawned.name for pair in self.lab.pairs)}
        found: dict[int, Tables] = {}
        for one in registers:
            root, levels = processor_of(one).cr3, levels_of(one)
            owner = layout.owner_of(root)
            if owner is None or root < FIRST_MIB or not levels or root in found:
                continue
            if owner.name in kernels and not self._restarted(owner.name):
                found[root] = Tables(one, owner, walk(ram, root, levels))
        return tuple(found.values())

    def _restarted(self, name: str) -> bool:
        console = self.lab.machine.console(name)
        since = max(self._marks[name], self.lab.successors.get(name, 0))
        said = console.transcript[since:].decode("utf-8", "replace")
        return _RESTARTED.search(said) is not None

    def _strays(self, look: Look) -> Iterator[Finding]:
        ram, written = look.ram, look.ram.written()
        strays = [written_free(ram, written, look.layout.free(ram.regions))]
        if ram.forked:
            for name, tables in {one.owner.name: one for one in look.tables}.items():
                canaries = self.lab.canaries.get(name, np.empty(0, np.int64))
                # A successor's were written when it was loaded.
                successor = name in self.lab.successors
                constants = np.empty(0, np.int64) if successor else self._constants(tables)
                strays += [
                    written_constants(ram, written, canaries, f"{name}'s canaries"),
                    written_constants(ram, written, constants, f"{name}'s constants (.rodata)"),
                ]
        yield from (stray for stray in strays if stray is not None)

    def _constants(self, tables: Tables) -> Pages:
        """Return the pages of a kernel's constants, which are in one piece."""
        symbols = self._symbols(tables.owner.name)
        bounds = _constants_of(symbols) if symbols else None
        start = tables.leaves.translate(bounds.start) if bounds else None
        if bounds is None or start is None:
            return np.empty(0, np.int64)
        return np.arange(start // PAGE, (start + bounds.size) // PAGE)

    def _symbols(self, name: str) -> Symbols | None:
        """Return the symbols of a kernel where its vmlinux is at hand."""
        build = self.lab.build
        own = name == HOST or build.definition.spawned_kernel is None
        return _read_symbols(build.vmlinux) if own and build.vmlinux.is_file() else None

    def _reach(self, look: Look, reached: Sequence[tuple[Tables, tuple[Mapping, ...]]]) -> Finding:
        """Make one finding of what the vCPUs of a kernel map, most of it the same."""
        tables = reached[0][0]
        name = tables.owner.name
        kernel, symbols = self._kernel(name), self._symbols(name)
        mappings = sorted({one for _, many in reached for one in many}, key=lambda one: one.virtual)
        lines = []
        for one in mappings[:SHOWN]:
            whose = look.layout.owner_of(one.physical.start)
            made = origin(one, tables.leaves, look.ram, kernel, symbols)
            lines.append(f"{one}, memory of {whose.name if whose else 'nobody'}; mapped in {made}")
        size = sum(one.physical.size for one in mappings)
        roots = ", ".join(f"{one.registers['CR3']:#x} (vCPU {one.registers.index})" for one, _ in reached)
        title = f"{len(mappings)} mappings from CR3 {roots}"
        return Finding(
            f"{name} maps {size >> 10} KiB that are not its own", (Evidence(title, "\n".join(lines)),)
        )

    def _kernel(self, name: str) -> Kernel:
        return self.lab.host if name == HOST else self.lab.pair(name).spawned


def parts_of(look: Look) -> tuple[Part, ...]:
    """Return what a look saw of the machine's memory as a map to draw."""
    written = look.ram.written()
    kernels = {one.owner.name: one.leaves for one in look.tables}
    return tuple(
        Part(
            region,
            claim,
            why,
            len(pages_in(written, [region])),
            {
                name: sum(part.size for part in merged(one.physical for one in leaves.into([region])))
                for name, leaves in kernels.items()
            },
        )
        for region, claim, why in claims_of(look.layout, look.ram.regions)
    )


def claims_of(layout: Layout, ram: Sequence[Region]) -> list[tuple[Region, str, str]]:
    """Cut RAM into stretches with one claim each: (region, whose, why), by address."""
    fixed: list[Region] = []
    found: list[tuple[Region, str, str]] = []
    for area in layout.fixed:
        # One may lie inside another.
        found += [(part, FIXED, area.why) for part in without(common(ram, [area.region]), fixed)]
        fixed.append(area.region)
    for owner in layout.owners:
        alone = without(owner.memory, fixed)
        found += [(part, owner.name, "") for part in common(ram, alone)]
    found += [(part, FREE, "") for part in layout.free(ram)]
    return sorted(found)


def trespasses(look: Look, tables: Tables) -> tuple[Mapping, ...]:
    """Return what page tables map of the RAM that is not their kernel's."""
    return tables.leaves.into(look.layout.foreign(tables.owner.name, look.ram.regions))


@functools.cache
def _read_symbols(vmlinux: Path) -> Symbols:
    return Symbols(vmlinux)


def _constants_of(symbols: Symbols) -> Region | None:
    start, end = symbols.address("__start_rodata"), symbols.address("__end_rodata")
    return Region(start, end - start) if start is not None and end is not None and end > start else None
