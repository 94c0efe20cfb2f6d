# SPDX-License-Identifier: MIT
"""QEMU's gdbstub: one vCPU stopped while the others run, registers, watchpoints.

The stub listens to two pipes that QEMU opens by their names in /proc, so there is no socket in the
file system and no port that others could connect to. While somebody is attached, every word to the
stub stops the whole machine for a moment: a guest sees that as a pause of some milliseconds.
"""

from __future__ import annotations

import os
import re
import struct
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from io import FileIO

from harness.errors import UsageError
from harness.vm.gdbpackets import GdbError, Packets
from harness.vm.machine import Machine, State
from harness.vm.qmp import QmpError

CHARDEV = "gdb-pipe"
_NAMES = (
    *("rax", "rbx", "rcx", "rdx", "rsi", "rdi", "rbp", "rsp"),
    *("r8", "r9", "r10", "r11", "r12", "r13", "r14", "r15", "rip"),
    *("eflags", "cs", "ss", "ds", "es", "fs", "gs"),
    *("fs_base", "gs_base", "k_gs_base", "cr0", "cr2", "cr3", "cr4", "cr8", "efer"),
)
_LAYOUT = struct.Struct("<17Q7I9Q")
"""What the answer to ``g`` begins with. Source: QEMU, gdb-xml/i386-64bit.xml."""
_KINDS = {"execute": 1, "write": 2, "read": 3, "access": 4}
"""Packets Z1 to Z4."""


@dataclass(frozen=True)
class Stop:
    """Why the machine stopped: ``vcpu`` is QEMU's index, ``signal`` 5 for break- and watchpoints.

    ``address`` is the virtual address of the watchpoint that was hit, None for anything else.
    """

    vcpu: int
    signal: int
    address: int | None = None


class Gdb:
    """An attached debugger; ``attached`` makes one, with the machine stopped.

    ``stop`` is why it stands still. Time-outs are in seconds. All methods raise GdbError.
    """

    def __init__(self, packets: Packets, vcpus: int, timeout: float) -> None:
        self._packets = packets
        self._vcpus = vcpus
        self._timeout = timeout
        self._points: set[str] = set()
        self.running = False
        self.stop = self._halted(self._ask("?"))

    def registers(self, vcpu: int) -> dict[str, int]:
        """Return a vCPU's registers by their names in lower case: rax to r15, rip, cr3, efer ..."""
        self._stand("read registers")
        self._check(vcpu)
        self._okay(f"Hg{vcpu + 1:02x}")
        data = bytes.fromhex(self._ask("g").replace("x", "0"))
        if len(data) < _LAYOUT.size:
            raise GdbError(f"the gdbstub tells {len(data)} bytes of registers, not {_LAYOUT.size}")
        return dict(zip(_NAMES, _LAYOUT.unpack_from(data), strict=True))

    def run(self) -> None:
        """Let all vCPUs run."""
        self._stand("run")
        self._packets.send("vCont;c")
        self.running = True

    def run_all_but(self, *vcpus: int) -> None:
        """Let all vCPUs run but these, which stand still until the next stop.

        QEMU calls the machine running. QMP's ``cont``, or freezing and thawing, starts them too.
        """
        self._stand("run")
        for vcpu in vcpus:
            self._check(vcpu)
        others = [index for index in range(self._vcpus) if index not in vcpus]
        if not others:
            raise UsageError("all vCPUs are to stand still", advice="use Machine.freeze()")
        self._packets.send("vCont" + "".join(f";c:{index + 1:x}" for index in others))
        self.running = True

    def halt(self) -> Stop:
        """Stop all vCPUs."""
        if self.running:
            self._packets.interrupt()
            self._stopped(self._timeout)
        return self.stop

    def wait(self, timeout: float) -> Stop:
        """Wait until a break- or watchpoint stops the machine."""
        if self.running:
            self._stopped(timeout)
        return self.stop

    def watch(self, address: int, size: int = 8, kind: str = "write") -> None:
        """Stop the machine when any vCPU touches ``size`` bytes at a virtual address.

        ``kind`` is "write", "read", "access", or "execute" (with size 1). Two kernels may use the
        same virtual address for different memory: the stop says which vCPU it was.
        """
        self._stand("set a watchpoint")
        if kind not in _KINDS:
            raise UsageError(f"{kind!r} is no kind of watchpoint", advice=f"one of: {', '.join(_KINDS)}")
        point = f"{_KINDS[kind]},{address:x},{size:x}"
        self._okay(f"Z{point}")
        self._points.add(point)

    def unwatch(self) -> None:
        """Remove every watchpoint."""
        self._stand("remove watchpoints")
        while self._points:
            self._okay(f"z{self._points.pop()}")

    def write_physical(self, address: int, data: bytes) -> None:
        """Write guest-physical memory or device registers, as a device's DMA would.

        TCG notices when that changes code. A local APIC's registers are not reached: without a vCPU
        the address range 0xfee00000 to 0xfeefffff takes interrupt messages.
        """
        self._stand("write memory")
        self._okay("Qqemu.PhyMemMode:1")
        try:
            self._okay(f"M{address:x},{len(data):x}:{data.hex()}")
        finally:
            self._okay("Qqemu.PhyMemMode:0")

    def detach(self) -> None:
        """Remove every watchpoint and let all vCPUs run."""
        self.halt()
        self.unwatch()
        self._okay("D")
        self.running = True

    def _ask(self, body: str) -> str:
        return self._packets.ask(body, self._timeout)

    def _okay(self, body: str) -> None:
        answer = self._ask(body)
        if answer != "OK":
            raise GdbError(f"the gdbstub refused {body[:60]!r}: {answer or 'not supported'}")

    def _stopped(self, timeout: float) -> None:
        self.stop = self._halted(self._packets.receive(timeout))
        self.running = False

    def _halted(self, reply: str) -> Stop:
        match = re.match(r"T([0-9a-f]{2})(?:.*?)thread:(?:p\w+\.)?([0-9a-f]+);", reply)
        if match is None:
            raise GdbError(f"the gdbstub's stop reply is not understood: {reply[:200]!r}")
        address = re.search(r"[ra]?watch:([0-9a-f]+)", reply)
        return Stop(int(match[2], 16) - 1, int(match[1], 16), int(address[1], 16) if address else None)

    def _check(self, vcpu: int) -> None:
        if not 0 <= vcpu < self._vcpus:
            raise UsageError(f"the machine has no vCPU {vcpu}", advice=f"choose 0 to {self._vcpus - 1}")

    def _stand(self, what: str) -> None:
        if self.running:
            raise UsageError(f"a machine that runs cannot {what}", advice="call halt() first")


@contextmanager
def attached(machine: Machine, timeout: float = 10.0) -> Iterator[Gdb]:
    """Attach to a machine, which stops it; when the block is over all of it runs again.

    ``timeout`` is what the stub has for each answer, stretched by the accelerator's factor. Raises
    GdbError when somebody is attached already.
    """
    qmp = machine.qmp
    if any(device["label"] == CHARDEV for device in qmp.execute("query-chardev")):
        raise GdbError("a debugger is attached to the machine already")
    with ExitStack() as stack:
        from_us, to_stub = _pipe(stack)
        from_stub, to_us = _pipe(stack)
        ours = f"/proc/{os.getpid()}/fd"
        ends = {"in": f"{ours}/{from_us.fileno()}", "out": f"{ours}/{to_us.fileno()}"}
        qmp.execute("chardev-add", id=CHARDEV, backend={"type": "file", "data": ends})
        stack.callback(_disable, machine)
        qmp.execute("human-monitor-command", command_line=f"gdbserver chardev:{CHARDEV}")
        # What QEMU has opened is its own; with ours closed, its end is seen as an end.
        from_us.close()
        to_us.close()
        gdb = Gdb(
            Packets(from_stub.fileno(), to_stub.fileno()), machine.spec.vcpus, timeout * machine.accel.factor
        )
        try:
            yield gdb
        finally:
            if machine.ended() is None:
                gdb.detach()


@contextmanager
def stopped(machine: Machine, vcpu: int) -> Iterator[dict[str, int]]:
    """Let one vCPU stand still while the block runs and all others go on; yield its registers.

    Time goes on: a kernel that was stopped for long may say that it stalled. Raises GdbError.
    """
    with attached(machine) as gdb:
        registers = gdb.registers(vcpu)
        gdb.run_all_but(vcpu)
        yield registers


def _pipe(stack: ExitStack) -> tuple[FileIO, FileIO]:
    source, sink = os.pipe()
    return stack.enter_context(FileIO(source, "rb")), stack.enter_context(FileIO(sink, "wb"))


def _disable(machine: Machine) -> None:
    with suppress(QmpError):
        machine.qmp.execute("human-monitor-command", command_line="gdbserver none")
        if any(device["label"] == CHARDEV for device in machine.qmp.execute("query-chardev")):
            machine.qmp.execute("chardev-remove", id=CHARDEV)
        # Where detaching failed, the machine still stands.
        if machine.state is State.LIVE and not machine.qmp.execute("query-status")["running"]:
            machine.qmp.execute("cont")
