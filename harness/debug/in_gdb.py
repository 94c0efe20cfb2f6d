# SPDX-License-Identifier: MIT
"""What gdb runs: the machine's kernels, each with its own symbols, and their stacks.

Not part of the package: gdb has a Python of its own, so this uses nothing but that. ``mkh_kernels`` is
set by the script that sources it: a list of name, vmlinux, offset from its addresses, and the physical
memory that is the kernel's (start and end), empty where all of a core file is one kernel's.

Stacks are unwound with the ORC tables in vmlinux. Sources: arch/x86/include/asm/orc_types.h as it is
since Linux 6.4 (and with other numbers since 7), arch/x86/kernel/unwind_orc.c, and struct pt_regs.
"""

from __future__ import annotations

import bisect
import struct
from array import array

import gdb
import gdb.unwinder

KERNELS = mkh_kernels  # noqa: F821
MODULES = (0xFFFFFFFFA0000000, 0xFFFFFFFFFF000000)
GUESSED = 64
"""Words of a stack among which a module's caller is looked for."""
CR3_ADDRESS = 0x000FFFFFFFFFF000
BEFORE_7 = {2: "rdx", 3: "rdi", 4: "rbp", 5: "rsp", 6: "r10", 7: "r13", 1: "previous", 8: "bp at", 9: "at sp"}
SINCE_7 = {2: "rdx", 3: "rsp", 4: "rbp", 5: "rdi", 6: "r10", 7: "r13", 8: "previous", 9: "at sp", 10: "bp at"}
END, CALL, REGS, PARTIAL = 1, 2, 3, 4
REG_NAMES = tuple("r15 r14 r13 r12 rbp rbx r11 r10 r9 r8 rax rcx rdx rsi rdi".split())  # noqa: SIM905


class Orc:
    """The ORC tables of a vmlinux: which entry is for which address."""

    def __init__(self, path, offset):
        with open(path, "rb") as file:
            data = file.read()
        self.ips, self.entries = array("Q"), b""
        sections = _sections(data)
        if ".orc_unwind_ip" not in sections:
            return
        address, start, size = sections[".orc_unwind_ip"]
        relative = struct.unpack_from("<%di" % (size // 4), data, start)
        self.ips = array("Q", [address + 4 * at + one + offset for at, one in enumerate(relative)])
        _, start, size = sections[".orc_unwind"]
        self.entries = data[start : start + size]
        # Nearly every frame counts from the stack pointer; its number tells which numbers these are.
        counted = [0] * 16
        for bits in self.entries[4::6]:
            counted[bits & 15] += 1
        usual = counted.index(max(counted))
        self.numbers = SINCE_7 if SINCE_7.get(usual) == "rsp" else BEFORE_7

    def covers(self, address):
        """Say whether an address is the kernel's own code, which may be where others have modules (KASLR)."""
        return len(self.ips) > 0 and self.ips[0] <= address <= self.ips[-1]

    def find(self, address):
        at = bisect.bisect_right(self.ips, address) - 1
        if at < 0 or address < 0xFFFFFFFF80000000:
            return None
        sp, bp, bits = struct.unpack_from("<hhH", self.entries, 6 * at)
        return sp, bp, self.numbers.get(bits & 15), self.numbers.get(bits >> 4 & 15), bits >> 8 & 7


def _sections(data):
    (table,) = struct.unpack_from("<Q", data, 40)
    size, count, names = struct.unpack_from("<HHH", data, 58)
    headers = [struct.unpack_from("<IIQQQQ", data, table + size * at) for at in range(count)]
    strings = headers[names][4]
    found = {}
    for name, _, _, address, offset, length in headers:
        end = data.index(b"\0", strings + name)
        found[data[strings + name : end].decode()] = (address, offset, length)
    return found


class Frame:
    """What tells a frame from others."""

    def __init__(self, sp, pc):
        self.sp, self.pc = _signed(sp), _signed(pc)


class Unwinder(gdb.unwinder.Unwinder):
    def __init__(self):
        super().__init__("mkharness")
        self.tables = {}

    def orc(self):
        kernel = current()
        key = kernel["vmlinux"]
        if key not in self.tables:
            self.tables[key] = Orc(key, kernel["offset"])
        return self.tables[key]

    def __call__(self, pending):
        try:
            return self.unwind(pending)
        except (gdb.error, gdb.MemoryError, OverflowError, OSError):
            return None

    def unwind(self, pending):
        pc, sp, bp = (_register(pending, name) for name in ("rip", "rsp", "rbp"))
        # Behind a call stands what comes next, maybe another function.
        exact = pending.level() == 0 or pc in EXACT
        if MODULES[0] <= pc < MODULES[1] and not self.orc().covers(pc):
            return self.guess(pending, sp, pc)
        entry = self.orc().find(pc if exact else pc - 1)
        if entry is None or entry[4] == END:
            # A program, or the end of the stack: a frame at 0 is the last one.
            return _end(pending, sp, pc) if pending.level() or entry else None
        sp_offset, bp_offset, sp_from, bp_from, kind = entry
        if kind not in (CALL, REGS, PARTIAL):
            return None
        frame = _frame(pending, sp_from, sp_offset)
        if frame is None:
            return None
        info = pending.create_unwind_info(Frame(frame, pc))

        def save(name, value):
            info.add_saved_register(name, _signed(value))

        if kind == CALL:
            save("rip", _word(frame - 8))
            save("rsp", frame)
            if bp_from == "previous":
                save("rbp", _word(frame + bp_offset))
            elif bp_from == "rbp":
                save("rbp", _word(bp + bp_offset))
            else:
                save("rbp", bp)
            return info
        # struct pt_regs: fifteen registers, the system call's number, then what the processor pushes.
        save("rip", _word(frame + (128 if kind == REGS else 0)))
        save("rsp", _word(frame + (152 if kind == REGS else 24)))
        if kind == REGS:
            for at, name in enumerate(REG_NAMES):
                save(name, _word(frame + 8 * at))
        else:
            save("rbp", bp)
        EXACT.add(_word(frame + (128 if kind == REGS else 0)))
        return info

    def guess(self, pending, sp, pc):
        """Take what looks like a return address for the caller: a module's tables are not in vmlinux."""
        ips = self.orc().ips
        for at in range(sp, sp + 8 * GUESSED, 8):
            word = _word(at)
            if len(ips) and ips[0] <= word <= ips[-1] and _called(word):
                info = pending.create_unwind_info(Frame(at + 8, pc))
                for name, value in (("rip", word), ("rsp", at + 8), ("rbp", _register(pending, "rbp"))):
                    info.add_saved_register(name, _signed(value))
                return info
        return _end(pending, sp, pc)


def _called(address):
    """Say whether a call stands before an address: e8 and a distance, or ff and a register."""
    before = bytes(gdb.selected_inferior().read_memory(address - 5, 5))
    return before[0] == 0xE8 or before[3] == 0xFF


EXACT = set()
"""Where interrupted code goes on: such a frame stands at its very instruction, not behind a call."""


def _frame(pending, sp_from, offset):
    """Return where the caller's frame begins, None where the table does not say."""
    if sp_from == "at sp":
        return _word(_register(pending, "rsp")) + offset
    if sp_from == "bp at":
        return _word(_register(pending, "rbp") + offset)
    if sp_from in (None, "previous"):
        return None
    return _register(pending, sp_from) + offset


def _register(pending, name):
    return int(pending.read_register(name)) & (1 << 64) - 1


def _signed(value):
    return gdb.Value(value - (1 << 64) if value >> 63 else value).cast(gdb.lookup_type("long"))


def _end(pending, sp, pc):
    info = pending.create_unwind_info(Frame(sp, pc))
    info.add_saved_register("rip", _signed(0))
    info.add_saved_register("rsp", _signed(sp))
    return info


def _word(address):
    return struct.unpack("<Q", gdb.selected_inferior().read_memory(address & (1 << 64) - 1, 8))[0]


CHOSEN = [KERNELS[0]]


def current():
    return CHOSEN[0]


def kernel_of_thread():
    """Return the kernel whose page tables the selected vCPU uses, None where nobody's."""
    if not KERNELS[0]["memory"]:
        return KERNELS[0]
    root = int(gdb.parse_and_eval("(unsigned long)$cr3")) & CR3_ADDRESS
    for kernel in KERNELS:
        if any(start <= root < end for start, end in kernel["memory"]):
            return kernel
    return None


def choose(kernel):
    """Take a kernel's symbols."""
    EXACT.clear()
    if (kernel["vmlinux"], kernel["offset"]) != (CHOSEN[0]["vmlinux"], CHOSEN[0]["offset"]):
        gdb.execute("symbol-file", to_string=True)
        gdb.execute("symbol-file -o %#x %s" % (kernel["offset"], kernel["vmlinux"]), to_string=True)
    CHOSEN[0] = kernel
    gdb.invalidate_cached_frames()


class Kernels(gdb.Command):
    """List the machine's vCPUs: which kernel each runs, and where.

    "kernel NAME" chooses a kernel: its symbols, and the first vCPU that runs it.
    """

    def __init__(self):
        super().__init__("kernels", gdb.COMMAND_STATUS)

    def invoke(self, argument, from_tty):
        was, chosen = gdb.selected_thread(), CHOSEN[0]
        for thread in sorted(gdb.selected_inferior().threads(), key=lambda one: one.num):
            thread.switch()
            kernel = kernel_of_thread()
            if kernel is not None:
                choose(kernel)
            pc = int(gdb.parse_and_eval("(unsigned long)$rip")) & (1 << 64) - 1
            place = gdb.execute("info symbol %#x" % pc, to_string=True).splitlines()[0]
            name = kernel["name"] if kernel else "(none)"
            print("%3d  %-10s %s" % (thread.num, name, place if kernel else "%#x" % pc))
        was.switch()
        choose(chosen)


class Kernel(gdb.Command):
    """Choose a kernel by its name: its symbols, and the first vCPU that runs it."""

    def __init__(self):
        super().__init__("kernel", gdb.COMMAND_STATUS)

    def invoke(self, argument, from_tty):
        named = [one for one in KERNELS if one["name"] == argument.strip()]
        if not named:
            raise gdb.GdbError("kernels: " + ", ".join(one["name"] for one in KERNELS))
        for thread in sorted(gdb.selected_inferior().threads(), key=lambda one: one.num):
            thread.switch()
            if kernel_of_thread() is named[0]:
                break
        else:
            print("no vCPU runs %s now" % argument)
        choose(named[0])
        gdb.execute("frame")

    def complete(self, text, word):
        return [one["name"] for one in KERNELS if one["name"].startswith(text)]


def follow(event):
    """When the machine stops, take the symbols of the kernel that the vCPU runs."""
    kernel = kernel_of_thread()
    if kernel is not None:
        choose(kernel)


gdb.events.stop.connect(follow)
Kernels()
Kernel()
gdb.unwinder.register_unwinder(None, Unwinder(), replace=True)
