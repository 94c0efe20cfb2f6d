# SPDX-License-Identifier: MIT
"""What may be asked about a machine while its consoles are looked at."""

from __future__ import annotations

import functools
import time
from pathlib import Path

from harness.errors import HarnessError
from harness.klog.symbols import Symbols
from harness.lab import Lab
from harness.model import Layout
from harness.multikernel.layout import HOST, claimed_layout
from harness.oracle.processors import FIRST_MIB, processor_of
from harness.partition import Partition
from harness.report.memorymap import text_of
from harness.vm.ram import ram_of
from harness.vm.registers import Registers, registers_of
from harness.vm.state import State

LOOKS, APART = 4, 0.1
"""How often, and how many seconds apart, a vCPU is looked at to say whether it moves."""
MAP_WIDTH = 118


class Questions:
    """Answers about the machine of ``lab``, as text."""

    def __init__(self, lab: Lab) -> None:
        self._lab = lab
        self._partition = Partition(lab)
        self._pairs = len(lab.pairs)

    def answer(self, question: str, argument: str) -> str:
        """Return the answer. Raises HarnessError."""
        match question:
            case "monitor":
                return self._monitor(argument)
            case "map":
                return self._map()
            case "vcpus":
                return self._vcpus()
            case "toggle":
                return self._toggle()
            case _:
                raise HarnessError(f"nobody knows an answer to {question!r}")

    def _monitor(self, line: str) -> str:
        answer = self._lab.machine.qmp.execute("human-monitor-command", command_line=line)
        return str(answer).replace("\r\n", "\n").rstrip() or "(nothing was said)"

    def _map(self) -> str:
        if len(self._lab.pairs) != self._pairs:
            # It takes a kernel that starts while it watches for one that has ended.
            self._partition, self._pairs = Partition(self._lab), len(self._lab.pairs)
        parts = self._partition.map()
        return text_of(parts, MAP_WIDTH) if parts else "the machine has ended"

    def _toggle(self) -> str:
        machine = self._lab.machine
        if machine.state is State.FROZEN:
            machine.thaw()
            return "running"
        machine.freeze()
        return "stopped"

    def _vcpus(self) -> str:
        looks = []
        for number in range(LOOKS):
            if number:
                time.sleep(APART)
            looks.append(registers_of(self._lab.machine.qmp))
        layout = self._layout()
        rows = [("vCPU", "APIC", "kernel", "state", "at")]
        for seen in zip(*looks, strict=True):
            last: Registers = seen[-1]
            owner = layout.owner_of(processor_of(last).cr3)
            starting = processor_of(last).cr3 < FIRST_MIB
            name = owner.name if owner is not None and not starting else "(none)"
            apic = str(self._lab.topology.apic_id(last.index))
            rows.append((str(last.index), apic, name, self._doing(seen), self._place(name, last["RIP"])))
        widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
        lines = [
            "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows
        ]
        return "\n".join(line.rstrip() for line in lines)

    def _doing(self, seen: tuple[Registers, ...]) -> str:
        """Say whether a vCPU runs, moves, or waits, from several looks at it."""
        if self._lab.machine.state is not State.LIVE:
            return "halted (machine stopped)" if seen[-1].halted else "machine stopped"
        if all(one.halted for one in seen):
            return "halted"
        moves = len({(one["RIP"], one["RSP"]) for one in seen}) > 1
        return "moving" if moves else "NOT moving"

    def _layout(self) -> Layout:
        """Return the claims that are known without asking a kernel, which may not answer."""
        lab = self._lab
        pool = lab.topology.pool.region if lab.dialect.pooled else None
        return claimed_layout(ram_of(lab.machine).regions, pool, (), lab.granted)

    def _place(self, name: str, address: int) -> str:
        symbols = _symbols(vmlinux_of(self._lab, name))
        return symbols.name(address) if symbols is not None else f"{address:#x}"


def vmlinux_of(lab: Lab, name: str) -> Path | None:
    """Return the vmlinux of a kernel of ``lab``; None where nobody has it."""
    path = lab.build.vmlinux if name == HOST else lab.build.spawned_vmlinux
    return path if path.is_file() else None


@functools.cache
def _symbols(vmlinux: Path | None) -> Symbols | None:
    try:
        return Symbols(vmlinux) if vmlinux is not None else None
    except HarnessError:
        return None
