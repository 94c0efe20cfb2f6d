# SPDX-License-Identifier: MIT
"""Registers of all vCPUs, as QEMU's ``info registers -a`` prints them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from harness.errors import HarnessError
from harness.vm.qmp import Qmp

_VALUE = re.compile(r"\b([A-Z][A-Z0-9]{1,3}) *=([0-9a-f]{8,16})\b")
"""General and control registers; ``R8 =`` has a blank, and outside 64-bit mode eight digits stand."""
_SEGMENT = re.compile(r"^([C-GS]S) *=([0-9a-f]{4}) ([0-9a-f]{8,16}) ", re.MULTILINE)
_IDT = re.compile(r"^IDT= +[0-9a-f]+ ([0-9a-f]+)", re.MULTILINE)
_GENERAL = ("AX", "BX", "CX", "DX", "SI", "DI", "BP", "SP")
_LONG_NAMES = {"EIP": "RIP", "EFL": "RFL", **{f"E{name}": f"R{name}" for name in _GENERAL}}


@dataclass(frozen=True)
class Segment:
    """A segment register: its selector and base address."""

    selector: int
    base: int


@dataclass(frozen=True)
class Registers:
    """One vCPU at one moment. ``values`` has RAX to R15, RIP, RFL (the flags), CR0 to CR4, EFER.

    ``halted``: it waits for an interrupt, or for the INIT and SIPI that start it.
    """

    index: int
    values: Mapping[str, int]
    segments: Mapping[str, Segment]
    halted: bool
    idt_limit: int = -1
    """The length of the table of interrupt handlers less one; 0: there is none, -1: QEMU does not tell."""

    def __getitem__(self, name: str) -> int:
        return self.values[name]


def registers_of(qmp: Qmp) -> tuple[Registers, ...]:
    """Ask QEMU for the registers of all vCPUs; those that run are stopped for the moment only."""
    return parse_registers(str(qmp.execute("human-monitor-command", command_line="info registers -a")))


def parse_registers(text: str) -> tuple[Registers, ...]:
    """Read what ``info registers -a`` prints. Raises HarnessError when it is something else."""
    found = []
    for block in re.split(r"^CPU#", text, flags=re.MULTILINE)[1:]:
        index = re.match(r"\d+", block)
        values = {_LONG_NAMES.get(name, name): int(value, 16) for name, value in _VALUE.findall(block)}
        segments = {
            name: Segment(int(selector, 16), int(base, 16))
            for name, selector, base in _SEGMENT.findall(block)
        }
        halted = re.search(r"\bHLT=([01])", block)
        known = {"RIP", "RSP", "RFL", "CR3"} <= values.keys() and len(segments) == 6
        if index is None or halted is None or not known:
            raise HarnessError("QEMU's register dump is not understood", details=block[:400])
        idt = _IDT.search(block)
        limit = int(idt[1], 16) if idt is not None else -1
        found.append(Registers(int(index[0]), values, segments, halted[1] == "1", limit))
    if not found:
        raise HarnessError("QEMU's register dump names no vCPU", details=text[:400])
    return tuple(found)
