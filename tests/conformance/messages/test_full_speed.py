# SPDX-License-Identifier: MIT
"""Messages as fast as kernels send them: numbered, so that what is lost, doubled, late or torn shows."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest

from harness.lab import Lab, Pair
from harness.multikernel import messaging
from harness.multikernel.kernel import Kernel
from harness.multikernel.messaging import Got, Sent, flood_line
from harness.multikernel.payload import Payload
from harness.plugin import Seen, claim

COUNT, SIZE = 1000, 128
"""Messages of each sender, and their size."""


def told(sent: Sent, got: Got) -> str:
    """Say what became of a flood."""
    lost = sent.taken - got.count
    return f"{sent.taken} taken, {lost} lost, {got.back} late or twice, {got.torn} torn"


def check(sent: Sent, got: Got) -> None:
    """Require that all that was taken came, and as it was sent."""
    assert sent.taken == COUNT, f"{sent.refused} were refused"
    assert got.count == COUNT, told(sent, got)
    assert got.in_order, told(sent, got)


def send_floods(kernel: Kernel, destination: int, senders: int, cpus: int) -> None:
    """Let processes flood a kernel at once, in turn on each of the sender's CPUs."""
    jobs = [
        f'taskset -c {tag % cpus} sh -c "{flood_line(destination, COUNT, SIZE, tag=tag)}" &'
        for tag in range(senders)
    ]
    kernel.run(f"{' '.join(jobs)} wait", timeout=90)


@claim(
    "what one, two and four processes send at full speed arrives all, once, whole, in each one's order",
    source="interface sheet IP-R1; known bug V1-09: one slot for each CPU, overwritten by the next message",
)
@pytest.mark.needs("spawn", "messages")
@pytest.mark.parametrize("senders", [1, 2, 4])
def test_senders(pair: Pair, seen: Seen, senders: int) -> None:
    to, cpus = pair.lab.dialect.to_spawned(pair.instance), len(pair.host.apic_ids())
    send_floods(pair.host, to, senders, cpus)
    sent, _ = messaging.floods(pair.host)
    for tag in range(senders):
        messaging.wait_for_flood(pair.spawned, tag, sent[tag].taken, timeout=5.0)
    _, got = messaging.floods(pair.spawned)
    nothing = Got(0, 0, 0, 0)
    for tag in range(senders):
        seen(told(sent[tag], got.get(tag, nothing)))
    for tag in range(senders):
        check(sent[tag], got.get(tag, nothing))


@claim(
    "two kernels that flood each other at once lose nothing",
    source="kernels/reference/0010: one ring for every sender and receiver, one writer and one reader",
)
@pytest.mark.needs("spawn", "messages")
def test_both_ways(pair: Pair, seen: Seen) -> None:
    dialect, before = pair.lab.dialect, pair.host.heartbeat()
    with ThreadPoolExecutor() as pool:
        there = pool.submit(send_floods, pair.host, dialect.to_spawned(pair.instance), 1, 1)
        back = pool.submit(send_floods, pair.spawned, dialect.to_host, 1, 1)
        there.result()
        back.result()
    for sender, receiver in ((pair.host, pair.spawned), (pair.spawned, pair.host)):
        sent = messaging.floods(sender)[0][0]
        got = messaging.wait_for_flood(receiver, 0, sent.taken, timeout=5.0)
        seen(f"from {sender.name}: {told(sent, got)}")
        check(sent, got)
    assert pair.host.beats_since(before), "a CPU has stopped"


@claim(
    "a handler that is slower than the sender has that wait for room, and loses nothing",
    source="kernels/reference/README.md: 16 messages per sender and receiver",
)
@pytest.mark.needs("spawn", "messages", "halt")
def test_slow_handler(payload: Payload, lab: Lab, seen: Seen) -> None:
    count = 100
    assert not messaging.hook(lab.host, f"on {messaging.NUMBERED:#x} 0")
    lab.host.run(f"echo busy 2 > {messaging.HOOKS}")
    before = lab.host.heartbeat()
    payload.flood(0, count, 232)
    got = messaging.wait_for_flood(lab.host, 0, count)
    seen(f"{count} messages, 2 ms each: {got}")
    assert got.count == count
    assert got.in_order
    assert lab.host.beats_since(before), "a CPU has stopped"
