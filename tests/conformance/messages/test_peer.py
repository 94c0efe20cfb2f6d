# SPDX-License-Identifier: MIT
"""Messages between the host and a spawned kernel that may be a bad peer: the payload."""

from __future__ import annotations

import secrets

import pytest

from harness.errors import HarnessError
from harness.lab import Lab
from harness.multikernel import messaging
from harness.multikernel.interface import Interface
from harness.multikernel.payload import Payload
from harness.plugin import Seen, claim

RING = 16
"""Messages that the reference series keeps per sender and receiver. Source: kernels/reference/README.md."""
DOORBELL = 0xEA
"""Interrupt vector of messages between kernels. Source: RFC v1 4/7 and v2, MULTIKERNEL_VECTOR."""

pytestmark = pytest.mark.needs("spawn", "messages", "halt")


@claim(
    "messages go from the host to a spawned kernel and back, byte for byte, up to the greatest length",
    source="RFC v2 14/16: mk_send_message(); kernels/reference/README.md: 232 bytes of payload",
)
@pytest.mark.parametrize("size", [1, 231, 232])
def test_messages_both_ways(payload: Payload, lab: Lab, size: int, seen: Seen) -> None:
    content = secrets.token_bytes(size)
    messaging.send(lab.host, lab.dialect.to_spawned(payload.instance), content)
    arrived = payload.wait_for(content)
    assert (arrived.sender, arrived.type) == (0, messaging.USER)
    # The payload answers each message with its content.
    answer = messaging.wait_for(lab.host, content)
    seen(f"{size} random bytes to instance {payload.instance.id} and back")
    assert (answer.sender, answer.type) == (payload.instance.id, messaging.USER)


@claim(
    "a kernel that takes out no messages holds up its own sender alone: the 17th is refused, none is lost",
    source="kernels/reference/README.md: 16 messages per sender and receiver",
)
def test_full_ring(payload: Payload, lab: Lab, seen: Seen) -> None:
    payload.command("hold 1")
    for number in range(RING):
        messaging.send(lab.host, payload.instance.id, bytes([number]))
    with pytest.raises(HarnessError, match="ended with status 1") as refused:
        messaging.send(lab.host, payload.instance.id, b"one too many")
    assert "No space left on device" in str(refused.value)
    assert payload.received() == ()
    assert payload.command("recv").number("count") == RING
    seen(f"{RING} taken, the next refused with ENOSPC")
    assert [message.payload for message in payload.received()] == [bytes([n]) for n in range(RING)]
    messaging.send(lab.host, payload.instance.id, b"again")
    payload.command("hold 0")
    payload.wait_for(b"again")


@claim(
    "messages go on after a flood of message interrupts from a spawned kernel",
    source="RFC v1 0/7: fault isolation between kernels",
)
def test_flood_of_interrupts(payload: Payload, lab: Lab, seen: Seen) -> None:
    before, flood = lab.host.heartbeat(), 100_000
    cpu = lab.host.apic_ids()[0]
    payload.command(f"ipi {cpu} {DOORBELL:#x} {flood}", timeout=60)
    assert lab.host.beats_since(before), "a CPU has stopped"
    content = secrets.token_bytes(16)
    messaging.send(lab.host, payload.instance.id, content)
    payload.wait_for(content)
    messaging.wait_for(lab.host, content)
    seen(f"{flood} to APIC id {cpu}, longest gap {lab.host.heartbeat().longest_gap_ms:.0f} ms")
    assert lab.host.console.splats() == ()


@claim(
    "rubbish in the rings of a spawned kernel harms nobody, and is gone when the next kernel starts there",
    source="kernels/reference/0010: nothing in the area for messages is trusted",
)
@pytest.mark.needs("force")
@pytest.mark.parametrize("byte", [0xFF, 0x7F, 0x01])
def test_rubbish_in_rings(payload: Payload, mk: Interface, lab: Lab, byte: int, seen: Seen) -> None:
    before = lab.host.heartbeat()
    # The area: a page of peers, then a page for each ring, by receiver and by sender.
    ring = payload.boot.told["shared"] + 4096 * (1 + payload.boot.told["slot"])
    payload.command(f"fill {ring:#x} 4096 {byte:#x}")
    payload.command(f"ipi {lab.host.apic_ids()[0]} {DOORBELL:#x} 10")
    assert lab.host.beats_since(before), "a CPU has stopped"
    assert messaging.received(lab.host) == (), "rubbish was delivered"
    mk.force(payload.instance.id).require()
    payload.load()
    payload.start()
    content = secrets.token_bytes(16)
    messaging.send(lab.host, payload.instance.id, content)
    payload.wait_for(content)
    messaging.wait_for(lab.host, content)
    seen(f"{byte:#x} all over its ring to the host; messages both ways afterwards")
    assert lab.host.console.splats() == ()
