# SPDX-License-Identifier: MIT
"""RFC v2's memory for messages, changed from outside while a kernel reads it, as another kernel could."""

from __future__ import annotations

import struct
import time
from dataclasses import replace

import pytest

from harness.klog.symbols import Symbols
from harness.lab import Lab
from harness.multikernel.messaging import hook, hooks
from harness.plugin import Seen, claim
from harness.vm import gdbstub
from harness.vm.ram import ram_of

pytestmark = [
    pytest.mark.needs("spawn"),
    pytest.mark.trespass("the slots lie in the pool beside what was granted, where the test puts them"),
]

DOORBELL, SLOT = 0xEA, 272
"""Interrupt vector and size of a CPU's slot. Source: RFC v2 13/16, struct mk_ipi_data."""
TYPE, GOOD, LONG = 0x5000, 8, 4096
HEADER = 24
"""Bytes of a message before what it says. Source: RFC v2 14/16, struct mk_message."""
LAST_STEP = "irq_work_run"
"""The kernel's function that runs what an interrupt has left for later: handlers of messages are."""


def slot(length: int, payload: int) -> bytes:
    """Return a slot with a message whose length and whose payload's length are these."""
    return struct.pack("<iIQIIQI", 0, TYPE, length, TYPE, 0, 0, payload)


@claim(
    "a handler is told of no more bytes than a message can have, also when the slot changes while it is read",
    source="known bug V2-11: lengths are read again after they were looked at",
)
def test_length_that_changes(lab: Lab, seen: Seen) -> None:
    if lab.dialect.name != "v2":
        pytest.skip("this series keeps its messages in other memory")
    # The argument is the series' own, which its host does not pass on (V2-10).
    area = lab.topology.pool.region.end - (1 << 20)
    own = lab.dialect.spawned_arguments
    lab.dialect = replace(
        lab.dialect, spawned_arguments=lambda *them: (*own(*them), f"mk_ipi_shared={area:#x}")
    )
    pair, ram = lab.pair(), ram_of(lab.machine)
    (cpu,) = pair.instance.apic_ids
    ring = f"echo ipi {cpu} {DOORBELL:#x} >/proc/mkraw"
    pair.host.run("insmod /lib/modules/mkraw.ko")
    assert not hook(pair.spawned, f"on {TYPE:#x} 0")
    place = area + SLOT * cpu
    ram.write(place, slot(HEADER + GOOD, GOOD))
    pair.host.run(ring)
    limit = time.monotonic() + 5.0 * pair.spawned.factor
    while not (told := hooks(pair.spawned)[TYPE, 0]).calls and time.monotonic() < limit:
        time.sleep(0.05)
    assert (told.calls, told.length) == (1, GOOD), f"a good message has not come: {told}"
    ram.write(place, slot(HEADER + GOOD, LONG))
    address = Symbols(lab.build.vmlinux).address(LAST_STEP)
    assert address is not None, f"there is no {LAST_STEP}()"
    with gdbstub.attached(lab.machine) as gdb:
        gdb.watch(address, 1, "execute")
        gdb.run()
        pair.host.later(ring)
        stop = gdb.wait(20.0 * pair.host.factor)
        assert stop.vcpu == cpu, f"vCPU {stop.vcpu} has interrupts' work to do, and not the receiver"
        ram.write(place, slot(HEADER + LONG, LONG))
    pair.spawned.run("true")
    told = hooks(pair.spawned)[TYPE, 0]
    seen(
        f"changed between interrupt and handler: {told.calls - 1} calls more, the last of {told.length} bytes"
    )
    assert told.length <= lab.dialect.longest_message, f"{told.length} bytes in a slot of {SLOT}"
