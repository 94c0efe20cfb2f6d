# SPDX-License-Identifier: MIT
"""Messages between spawned kernels, and from several of them at once."""

from __future__ import annotations

import secrets
from concurrent.futures import ThreadPoolExecutor

import pytest

from harness.lab import Lab
from harness.multikernel import messaging
from harness.multikernel.kernel import Kernel
from harness.multikernel.messaging import flood_line
from harness.multikernel.payload import Payload
from harness.plugin import Seen, claim

pytestmark = pytest.mark.needs("spawn", "messages", "several", "halt")

DOORBELL = 0xEA
"""Interrupt vector of messages between kernels. Source: RFC v1 4/7 and v2, MULTIKERNEL_VECTOR."""
COUNT, SIZE = 800, 100


@claim(
    "messages go from one spawned kernel to another, byte for byte, and their host gets none of them",
    source="RFC v2 14/16: mk_send_message() to any instance",
)
def test_past_the_host(payloads: tuple[Payload, ...], trio: Lab, seen: Seen) -> None:
    one, other = payloads[:2]
    before = messaging.counters(trio.host)["received"]
    sizes = (0, 1, 7, 8, 100, 231, 232)
    for size in sizes:
        content = secrets.token_bytes(size)
        one.send(other.instance.id, content, type=messaging.USER, subtype=size)
        there = other.wait_for(content)
        assert (there.sender, there.subtype) == (one.instance.id, size)
        # Its answer, marked as one.
        back = one.wait_for(content)
        assert (back.sender, back.subtype) == (other.instance.id, size | 1 << 31)
    got = messaging.counters(trio.host)["received"] - before
    seen(f"{len(sizes)} there and back, up to {sizes[-1]} bytes; {got} at the host")
    assert got == 0


@claim(
    "among a host and three spawned kernels each gets what is for it, from whom it is said to be",
    source="kernels/reference/0010: the id of the sender",
)
def test_everybody_to_everybody(payloads: tuple[Payload, ...], trio: Lab, seen: Seen) -> None:
    ids = [0, *(payload.instance.id for payload in payloads)]
    for payload in payloads:
        payload.command("echo 0")
    for receiver in ids[1:]:
        messaging.send(trio.host, receiver, f"0 to {receiver}".encode())
    for payload in payloads:
        for receiver in set(ids) - {payload.instance.id}:
            content = f"{payload.instance.id} to {receiver}".encode()
            payload.send(receiver, content, type=messaging.USER)
    came = {}
    for payload in payloads:
        for sender in set(ids) - {payload.instance.id}:
            payload.wait_for(f"{sender} to {payload.instance.id}".encode())
        came[payload.instance.id] = payload.received()
    for sender in ids[1:]:
        messaging.wait_for(trio.host, f"{sender} to 0".encode())
    came[0] = messaging.received(trio.host)
    seen(f"{sum(map(len, came.values()))} messages among kernels {ids}")
    for receiver, messages in came.items():
        said = {one.payload: one.sender for one in messages}
        assert said == {f"{sender} to {receiver}".encode(): sender for sender in ids if sender != receiver}
        assert len(messages) == len(ids) - 1


@claim(
    "three spawned kernels that flood their host at once lose nothing, each in its own order",
    source="interface sheet IP-R1; kernels/reference/0010: one ring for every sender and receiver",
)
def test_three_floods(payloads: tuple[Payload, ...], trio: Lab, seen: Seen) -> None:
    before = trio.host.heartbeat()
    with ThreadPoolExecutor() as pool:
        jobs = [pool.submit(one.flood, 0, COUNT, SIZE, tag=one.instance.id) for one in payloads]
        for job in jobs:
            job.result()
    for one in payloads:
        got = messaging.wait_for_flood(trio.host, one.instance.id, COUNT)
        seen(f"{one.instance.name}: {got}")
        assert got.count == COUNT
        assert got.in_order
    assert trio.host.beats_since(before), "a CPU of the host has stopped"


@claim(
    "one spawned kernel flooded by its host and two others at once gets all, each one's in order",
    source="interface sheet IP-R1; kernels/reference/0010: one ring for every sender and receiver",
)
def test_three_at_one(payloads: tuple[Payload, ...], trio: Lab, seen: Seen) -> None:
    to, *others = payloads
    with ThreadPoolExecutor() as pool:
        jobs = [pool.submit(one.flood, to.instance.id, COUNT, SIZE, tag=one.instance.id) for one in others]
        trio.host.run(flood_line(to.instance.id, COUNT, SIZE), timeout=60)
        for job in jobs:
            job.result()
    for tag in (0, *(one.instance.id for one in others)):
        got = to.flooded(tag)
        seen(f"from {tag}: {got}")
        assert got.count == COUNT
        assert got.in_order


@claim(
    "doorbells rung by three kernels at once on every CPU of their host leave all alive, and messages go on",
    source="interface sheet IP-R2: a storm of interrupts",
)
def test_doorbells(payloads: tuple[Payload, ...], trio: Lab, seen: Seen) -> None:
    before, count = trio.host.heartbeat(), 5000

    def ring(payload: Payload) -> None:
        for cpu in trio.host.apic_ids():
            payload.command(f"ipi {cpu} {DOORBELL:#x} {count}", timeout=60)

    targets = trio.host.apic_ids()
    with ThreadPoolExecutor() as pool:
        list(pool.map(ring, payloads))
    assert trio.host.beats_since(before), "a CPU of the host has stopped"
    for payload in payloads:
        content = secrets.token_bytes(16)
        messaging.send(trio.host, payload.instance.id, content)
        payload.wait_for(content)
        messaging.wait_for(trio.host, content)
    gap = trio.host.heartbeat().longest_gap_ms
    seen(f"{len(payloads)} times {count} to each of APIC ids {targets}, longest gap {gap:.0f} ms")
    assert len(messaging.received(trio.host)) == len(payloads)


@claim(
    "two spawned Linux kernels exchange messages, and flood each other without a loss, beside a third kernel",
    source="RFC v2 14/16: mk_send_message() to any instance",
)
@pytest.mark.needs("cpus")
def test_two_linuxes(trio: Lab, seen: Seen) -> None:
    one, other = trio.pair("alpha"), trio.pair("bravo")
    ends: list[tuple[Kernel, int, Kernel, int]] = [
        (one.spawned, one.instance.id, other.spawned, other.instance.id),
        (other.spawned, other.instance.id, one.spawned, one.instance.id),
    ]
    for sender, number, receiver, to in ends:
        for size in (0, 1, 232):
            content = secrets.token_bytes(size)
            messaging.send(sender, to, content)
            assert messaging.wait_for(receiver, content).sender == number
    with ThreadPoolExecutor() as pool:
        jobs = [
            pool.submit(sender.run, flood_line(to, COUNT, SIZE, tag=number), timeout=60)
            for sender, number, _, to in ends
        ]
        for job in jobs:
            job.result()
    for _, number, receiver, _ in ends:
        got = messaging.wait_for_flood(receiver, number, COUNT)
        seen(f"to {receiver.name}: {got}")
        assert got.count == COUNT
        assert got.in_order
    assert messaging.received(trio.host) == ()
