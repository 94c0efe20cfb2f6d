# SPDX-License-Identifier: MIT
"""Which kernel runs on which vCPU, from its page table root.

Every kernel keeps its page tables in its own RAM, so the address in CR3 names the kernel.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from harness.errors import HarnessError
from harness.vm.machine import Machine

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
    text = machine.qmp.execute("human-monitor-command", command_line="info registers -a")
    return parse_registers(str(text))


def parse_registers(text: str) -> tuple[Processor, ...]:
    """Read what QEMU's ``info registers -a`` prints."""
    found = []
    for block in re.split(r"^CPU#", text, flags=re.MULTILINE)[1:]:
        index = re.match(r"\d+", block)
        rip = re.search(r"\b[RE]IP=([0-9a-f]+)", block)
        cr3 = re.search(r"\bCR3=([0-9a-f]+)", block)
        halted = re.search(r"\bHLT=([01])", block)
        if not (index and rip and cr3 and halted):
            raise HarnessError("QEMU's register dump is not understood", details=block[:400])
        found.append(
            Processor(int(index[0]), int(rip[1], 16), int(cr3[1], 16) & _CR3_ADDRESS, halted[1] == "1")
        )
    if not found:
        raise HarnessError("QEMU's register dump names no vCPU", details=text[:400])
    return tuple(found)
