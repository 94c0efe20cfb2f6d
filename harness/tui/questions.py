# SPDX-License-Identifier: MIT
"""What may be asked about a machine while its consoles are looked at."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from harness.debug import gdb
from harness.debug.live import Debugging
from harness.diagnose.images import Image, image_of, placed
from harness.diagnose.space import Space
from harness.diagnose.stacks import frame_of
from harness.diagnose.vcpus import layout_of
from harness.errors import HarnessError
from harness.lab import Lab
from harness.oracle.processors import FIRST_MIB, processor_of
from harness.partition import Partition
from harness.report.memorymap import text_of
from harness.vm.machine import Machine
from harness.vm.ram import ram_of
from harness.vm.registers import Registers, registers_of
from harness.vm.state import State

LOOKS, APART = 4, 0.1
"""How often, and how many seconds apart, a vCPU is looked at to say whether it moves."""
MAP_WIDTH = 118
_UNASKED = (
    "The host could not be asked for its memory map, so what is agreed on between kernels, such as the\n"
    "rings of messages, is shown as nobody's. Let the machine run (c) and ask again (r)."
)


class Questions:
    """Answers about the machine of ``lab``, as text."""

    def __init__(self, lab: Lab) -> None:
        self._lab = lab
        self._debugging = Debugging(lab)
        self._partition = Partition(lab)
        self._pairs = len(lab.pairs)

    def answer(self, question: str, argument: str) -> str:
        """Return the answer. Raises HarnessError."""
        debugging = self._debugging
        answers: dict[str, Callable[[], str]] = {
            "monitor": lambda: self._monitor(argument),
            "map": lambda: self._map(int(argument or MAP_WIDTH)),
            "vcpus": self._vcpus,
            "toggle": self._toggle,
            "gdb": lambda: str(debugging.gdb()),
            "dump": lambda: "\n".join(map(str, debugging.dump(argument))),
            "attach": lambda: attaching(argument, debugging.gdb()),
        }
        if question not in answers:
            raise HarnessError(f"nobody knows an answer to {question!r}")
        return answers[question]()

    def _monitor(self, line: str) -> str:
        answer = self._lab.machine.qmp.execute("human-monitor-command", command_line=line)
        return str(answer).replace("\r\n", "\n").rstrip() or "(nothing was said)"

    def _map(self, width: int) -> str:
        if len(self._lab.pairs) != self._pairs:
            # It takes a kernel that starts while it watches for one that has ended.
            self._partition, self._pairs = Partition(self._lab), len(self._lab.pairs)
        parts = self._partition.map()
        if not parts:
            return "the machine has ended"
        note = "" if self._partition.last_iomem else f"\n{_UNASKED}"
        return text_of(parts, width) + note

    def _toggle(self) -> str:
        machine = self._lab.machine
        if stopped(machine):
            if machine.state is State.FROZEN:
                machine.thaw()
            else:
                machine.qmp.execute("cont")
            return "running"
        machine.freeze()
        return "stopped"

    def _vcpus(self) -> str:
        looks = []
        for number in range(LOOKS):
            if number:
                time.sleep(APART)
            looks.append(registers_of(self._lab.machine.qmp))
        ram, layout = ram_of(self._lab.machine), layout_of(self._lab)
        images: dict[str, Image] = {}
        rows = [("vCPU", "APIC", "kernel", "state", "at")]
        for seen in zip(*looks, strict=True):
            last: Registers = seen[-1]
            owner = layout.owner_of(processor_of(last).cr3)
            starting = processor_of(last).cr3 < FIRST_MIB
            name = owner.name if owner is not None and not starting else "(none)"
            if owner is not None and not starting and name not in images:
                images[name] = placed(image_of(self._lab, owner.name), ram, owner)
            place = str(frame_of(images.get(name), Space(ram, last), last["RIP"]))
            apic = str(self._lab.topology.apic_id(last.index))
            rows.append((str(last.index), apic, name, self._doing(seen), place))
        widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
        lines = [
            "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows
        ]
        return "\n".join(line.rstrip() for line in lines)

    def _doing(self, seen: tuple[Registers, ...]) -> str:
        """Say whether a vCPU runs, moves, or waits, from several looks at it."""
        if stopped(self._lab.machine) or self._lab.machine.state is not State.LIVE:
            return "halted (machine stopped)" if seen[-1].halted else "machine stopped"
        if all(one.halted for one in seen):
            return "halted"
        moves = len({(one["RIP"], one["RSP"]) for one in seen}) > 1
        return "moving" if moves else "NOT moving"


def stopped(machine: Machine) -> bool:
    """Say whether a machine stands still: by the harness, or by gdb, of which that is not told."""
    events = reversed(machine.qmp.events)
    last = next((one["event"] for one in events if one["event"] in {"STOP", "RESUME"}), "")
    return last == "STOP" if last else machine.state is State.FROZEN


def attaching(name: str, script: Path) -> str:
    """Return how to attach to the machine that is served as ``name``."""
    return f"""\
another console   mkh console --attach {name}
gdb               {gdb.command(script)}
                  in it: kernels (what each vCPU runs), kernel NAME (its symbols
                  and vCPU); all kernels stand still while gdb does, `continue`
                  lets them run
drgn              mkh debug {name} --drgn
                  on the memory as it is then; of a spawned kernel: --of NAME"""
