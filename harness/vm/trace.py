# SPDX-License-Identifier: MIT
"""Who wrote to which device register: QEMU's trace event, switched on for a stretch of time.

QEMU must be built with the trace backend ``log``, as Debian's is (checked: 7.2). The log goes into
a pipe of the harness that QEMU opens by its name in /proc when the stretch begins. So no file is
left behind, machines need no option for it, and forks have it like those that booted.
"""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache

import msgspec

from harness.errors import HarnessError
from harness.vm.machine import Machine
from harness.vm.qmp import Qmp, QmpError

EVENT = "memory_region_ops_write"
LIMIT = 64 << 20
"""Bytes of log that a stretch may have, about 650,000 writes. Two idle kernels make 17,000 of them a
second, mostly the timers of the one that polls."""
END_WAIT = 10.0
"""Seconds for QEMU to close the pipe after the stretch; it takes 60 ms, since no vCPU may still use it."""

_WRITE = re.compile(
    rb"memory_region_ops_write cpu (-?\d+) mr 0x[0-9a-f]+ addr 0x([0-9a-f]+) value 0x([0-9a-f]+)"
    rb" size (\d+) name '(.*)'"
)


class TraceError(HarnessError):
    """A stretch that could not be recorded, or not all of it."""


class Write(msgspec.Struct, frozen=True):
    """One write of ``size`` bytes to a device's register: an I/O port or a physical address.

    ``vcpu`` is QEMU's index of the vCPU in whose course it came, None when QEMU's own threads did
    it (timers, arriving input). A device's interrupt message (MSI, region ``apic-msi`` above
    0xfee00fff) shows the vCPU that made the device act. ``region`` is QEMU's name of the registers:
    ``serial`` for all serial ports, ``apic-msi`` for local APICs.
    """

    vcpu: int | None
    address: int
    value: int
    size: int
    region: str


@contextmanager
def trace(machine: Machine, *, limit: int = LIMIT) -> Iterator[list[Write]]:
    """Record device register writes of all vCPUs while the block runs.

    Yields a list that has them in their order when the block is over. The log of one stretch may
    have ``limit`` bytes; what is beyond is dropped, and the block's end raises TraceError. Raises
    TraceError when a stretch is under way already or QEMU cannot trace. A machine that ends within
    the block leaves what it wrote until then. RAM and mapped video memory are no registers.
    """
    qmp = machine.qmp
    if _traced(qmp):
        raise TraceError("the machine's register writes are being recorded already")
    writes: list[Write] = []
    reader, writer = os.pipe()
    drain = _Drain(reader, limit)
    try:
        # QEMU opens the pipe's name as it opens any file; it runs as the same user.
        answer = _monitor(qmp, f"logfile /proc/{os.getpid()}/fd/{writer}")
    finally:
        os.close(writer)
    if answer:
        raise TraceError(f"QEMU cannot write its log to a pipe: {answer}")
    try:
        qmp.execute("trace-event-set-state", name=EVENT, enable=True)
        yield writes
    finally:
        with suppress(QmpError):
            qmp.execute("trace-event-set-state", name=EVENT, enable=False)
            # A vCPU may be in the middle of a line: QEMU closes the old log when all are out.
            _monitor(qmp, "logfile /dev/null")
        drain.thread.join(END_WAIT)
        writes += parse(bytes(drain.data))
    if drain.thread.is_alive():
        raise TraceError(f"QEMU did not close its log within {END_WAIT:.0f} s")
    if drain.dropped:
        raise TraceError(
            f"{drain.dropped} bytes of {drain.dropped + limit} of the machine's register writes were dropped",
            advice="record a shorter stretch, or raise the limit",
        )


def parse(log: bytes) -> list[Write]:
    """Return the writes that QEMU's log tells, whatever else is in it."""

    # Most of them are of few kinds: vCPUs, registers and names come again and again.
    @cache
    def number(text: bytes) -> int:
        return int(text, 16)

    @cache
    def vcpu(text: bytes) -> int | None:
        return int(text) if int(text) >= 0 else None

    @cache
    def name(text: bytes) -> str:
        return text.decode("utf-8", "backslashreplace")

    return [
        Write(vcpu(cpu), number(address), int(value, 16), int(size), name(region))
        for cpu, address, value, size, region in _WRITE.findall(log)
    ]


class _Drain:
    """Reads a pipe to its end, since a vCPU that writes to a full one would stand still."""

    def __init__(self, reader: int, limit: int) -> None:
        self.data = bytearray()
        self.dropped = 0
        self._reader = reader
        self._limit = limit
        self.thread = threading.Thread(target=self._run, name="trace", daemon=True)
        self.thread.start()

    def _run(self) -> None:
        with open(self._reader, "rb", buffering=0) as pipe:
            while chunk := pipe.read(1 << 16):
                kept = chunk[: max(0, self._limit - len(self.data))]
                self.data += kept
                self.dropped += len(chunk) - len(kept)


def _traced(qmp: Qmp) -> bool:
    try:
        states = qmp.execute("trace-event-get-state", name=EVENT)
    except QmpError as error:
        raise TraceError(f"this QEMU has no trace event {EVENT}: {error.what}") from None
    if any(state["state"] == "unavailable" for state in states):
        raise TraceError(f"this QEMU is built without the trace event {EVENT}")
    return any(state["state"] == "enabled" for state in states)


def _monitor(qmp: Qmp, command: str) -> str:
    return str(qmp.execute("human-monitor-command", command_line=command)).strip()
