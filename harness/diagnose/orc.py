# SPDX-License-Identifier: MIT
"""Unwinding a kernel's stack with the ORC tables of its vmlinux.

Sources: Documentation/arch/x86/orc-unwinder.rst; struct orc_entry in arch/x86/include/asm/orc_types.h
as it is since Linux 6.4, whose numbers of registers changed in 7.x, and arch/x86/kernel/unwind_orc.c.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from elftools.elf.elffile import ELFFile

_ENTRY = np.dtype([("sp", "<i2"), ("bp", "<i2"), ("bits", "<u2")])
_CALL, _REGS, _REGS_PARTIAL, _END = 2, 3, 4, 1
_IP, _SP, _PT_BP = 128, 152, 32
"""Where in struct pt_regs instruction pointer, stack pointer and RBP are."""


@dataclass(frozen=True)
class _Numbers:
    """How tables number what an address counts from."""

    registers: dict[int, str]
    previous: int
    base: int
    sp_indirect: int
    bp_indirect: int


_SINCE_7 = _Numbers({2: "RDX", 3: "RSP", 4: "RBP", 5: "RDI", 6: "R10", 7: "R13"}, 8, 4, 9, 10)
_BEFORE_7 = _Numbers({2: "RDX", 3: "RDI", 4: "RBP", 5: "RSP", 6: "R10", 7: "R13"}, 1, 4, 9, 8)

Read = Callable[[int], int | None]
"""Returns the 64-bit word at a virtual address, None where nothing is mapped."""
OUTERMOST = 0
"""The instruction pointer of a frame that has no caller."""


@dataclass(frozen=True)
class Step:
    """Where the caller's frame is; ``interrupted`` is set where an interrupt came in between."""

    ip: int
    sp: int
    bp: int
    interrupted: bool = False


class Orc:
    """The tables of ``vmlinux``; empty where it was built without them."""

    def __init__(self, vmlinux: Path) -> None:
        self._ips = np.empty(0, np.uint64)
        self._entries = np.empty(0, _ENTRY)
        with vmlinux.open("rb") as file:
            elf = ELFFile(file)
            ips, entries = (elf.get_section_by_name(name) for name in (".orc_unwind_ip", ".orc_unwind"))
            if ips is None or entries is None:
                return
            self._ips = _absolute(np.frombuffer(ips.data(), "<i4"), int(ips["sh_addr"]))
            self._entries = np.frombuffer(entries.data(), _ENTRY)
        # Nearly every frame counts from the stack pointer; its number tells which numbers these are.
        usual = np.bincount(self._entries["bits"] & 15).argmax()
        self._numbers = _SINCE_7 if _SINCE_7.registers.get(int(usual)) == "RSP" else _BEFORE_7

    def __bool__(self) -> bool:
        return bool(len(self._ips))

    def step(self, now: Step, registers: Mapping[str, int], read: Read) -> Step | None:
        """Return the caller's frame, with OUTERMOST where there is none; None where that is not known.

        ``registers`` are those of the innermost frame, for the few entries that count from them.
        """
        # A return address may stand behind the end of a function that never returns.
        looked_up = now.ip if now.interrupted else now.ip - 1
        at = int(np.searchsorted(self._ips, np.uint64(looked_up), "right")) - 1
        if at < 0:
            return None
        entry = self._entries[at]
        bits = int(entry["bits"])
        sp_from, bp_from, kind = bits & 15, bits >> 4 & 15, bits >> 8 & 7
        values = {**registers, "RSP": now.sp, "RBP": now.bp}
        if kind == _END:
            return Step(OUTERMOST, 0, 0)
        if kind not in {_CALL, _REGS, _REGS_PARTIAL}:
            return None
        sp = self._stack(sp_from, int(entry["sp"]), values, read)
        if sp is None:
            return None
        places = {_CALL: (sp - 8, None), _REGS: (sp + _IP, sp + _SP), _REGS_PARTIAL: (sp, sp + 24)}
        ip_at, sp_at = places[kind]
        ip, previous = read(ip_at), sp if sp_at is None else read(sp_at)
        if ip is None or previous is None:
            return None
        bases = {self._numbers.previous: sp, self._numbers.base: now.bp}
        if bp_from in bases:
            bp = read(bases[bp_from] + int(entry["bp"])) or 0
        else:
            bp = (read(sp + _PT_BP) or 0) if kind == _REGS else now.bp
        return Step(ip, previous, bp, interrupted=kind != _CALL)

    def _stack(self, source: int, offset: int, values: Mapping[str, int], read: Read) -> int | None:
        if source == self._numbers.sp_indirect:
            base = read(values["RSP"])
            return None if base is None else base + offset
        if source == self._numbers.bp_indirect:
            return read(values["RBP"] + offset)
        name = self._numbers.registers.get(source)
        return values[name] + offset if name is not None and name in values else None


def _absolute(offsets: npt.NDArray[np.int32], begin: int) -> npt.NDArray[np.uint64]:
    """Return the addresses that the entries mean: each counts from where it stands."""
    places = np.arange(len(offsets), dtype=np.int64) * 4
    # In 64 bits without a sign, in which adding what is negative wraps around as it should.
    return np.uint64(begin) + (offsets.astype(np.int64) + places).astype(np.uint64)
