# SPDX-License-Identifier: MIT
"""Which kernel runs on which vCPU, from its page table root.

Every kernel keeps its page tables in its own RAM, so the address in CR3 names the kernel.
"""

from __future__ import annotations

from dataclasses import dataclass

from harness.vm.machine import Machine
from harness.vm.registers import Registers, registers_of

_CR3_ADDRESS = 0x000F_FFFF_FFFF_F000
"""Bits 51..12 of CR3: the physical address of the page table root. Source: Intel SDM volume 3, 4.5."""


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
