# SPDX-License-Identifier: MIT
"""RFC v1's memory for messages, one slot for each CPU, written from outside as another kernel could."""

from __future__ import annotations

import struct
import time

import pytest

from harness.lab import Lab
from harness.multikernel.messaging import hook, hooks
from harness.multikernel.payload import Payload
from harness.multikernel.v1 import SHARED
from harness.plugin import Seen, claim
from harness.vm.ram import ram_of

pytestmark = pytest.mark.needs("spawn", "messages", "segments")

DOORBELL, SLOT, MOST = 0xEA, 272, 256
"""Interrupt vector, size of a slot and of the data in it. Source: RFC v1 4/7, struct mk_ipi_data."""
TYPE = 0x5000


@claim(
    "a handler is told of no more bytes than a message can have, whatever stands in the shared memory",
    source="RFC v1 4/7: MK_MAX_DATA_SIZE, which a send is compared with",
)
@pytest.mark.parametrize("length", [MOST + 1, 1 << 20, (1 << 32) - 1])
def test_length_in_the_slot(payload: Payload, lab: Lab, length: int, seen: Seen) -> None:
    before, cpu = lab.host.heartbeat(), lab.host.apic_ids()[0]
    assert not hook(lab.host, f"on {TYPE:#x} 0")
    ram_of(lab.machine).write(SHARED.region.start + SLOT * cpu, struct.pack("<iIQ", 3, TYPE, length))
    payload.command(f"ipi {cpu} {DOORBELL:#x}")
    limit = time.monotonic() + 2.0 * lab.host.factor
    while not (told := hooks(lab.host)[TYPE, 0]).calls and time.monotonic() < limit:
        time.sleep(0.05)
    seen(f"{length} in the slot: {told.calls} call, told of {told.length}")
    assert lab.host.beats_since(before), "a CPU has stopped"
    assert not told.calls or told.length <= MOST
