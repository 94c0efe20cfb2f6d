# SPDX-License-Identifier: MIT
"""Which kernel runs on which vCPU, from its page table root.

Every kernel keeps its page tables in its own RAM, so the address in CR3 names the kernel. Below 1 MiB
are the tables of CPUs that are being started.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from harness.model import Evidence, Finding, Layout
from harness.vm.machine import Machine
from harness.vm.registers import Registers, registers_of

_CR3_ADDRESS = 0x000F_FFFF_FFFF_F000
"""Bits 51..12 of CR3: the physical address of the page table root. Source: Intel SDM volume 3, 4.5."""
FIRST_MIB = 1 << 20


@dataclass(frozen=True)
class Processor:
    """One vCPU at one moment: QEMU's index, instruction pointer, page table root's address.

    ``halted``: it waits for an interrupt, or for the INIT and SIPI that start it.
    """

    index: int
    rip: int
    cr3: int
    halted: bool

    def __str__(self) -> str:
        return f"vCPU {self.index}: RIP {self.rip:#x}, CR3 {self.cr3:#x}{', halted' if self.halted else ''}"


def processors(machine: Machine) -> tuple[Processor, ...]:
    """Read the registers of all vCPUs; the machine may run."""
    return tuple(map(processor_of, registers_of(machine.qmp)))


def processor_of(registers: Registers) -> Processor:
    """Return what these registers say; CR3 without its flag bits."""
    root = registers["CR3"] & _CR3_ADDRESS
    return Processor(registers.index, registers["RIP"], root, registers.halted)


def strangers(
    running: Iterable[Processor], layout: Layout, apic_id: Callable[[int], int]
) -> tuple[Finding, ...]:
    """Look for vCPUs that run a kernel which has no claim to them.

    ``apic_id`` gives a vCPU's. A granted CPU may be the host's, too: it waits there until its kernel
    is started.
    """
    running = tuple(running)
    evidence = (Evidence("registers", "\n".join(map(str, running))),)
    host = layout.owners[0]
    found = []
    for processor in running:
        if processor.cr3 < FIRST_MIB:
            continue
        owner, apic = layout.owner_of(processor.cr3), apic_id(processor.index)
        if owner is None:
            what = f"vCPU {processor.index} runs on page tables at {processor.cr3:#x}, in memory of nobody"
            found.append(Finding(what, evidence))
        elif owner is not host and owner.apic_ids and apic not in owner.apic_ids:
            granted = ", ".join(map(str, sorted(owner.apic_ids)))
            what = f"vCPU {processor.index} (APIC id {apic}) runs {owner.name}, which has APIC ids {granted}"
            found.append(Finding(what, evidence))
    return tuple(found)
