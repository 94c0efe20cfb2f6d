# SPDX-License-Identifier: MIT
"""Messages between the host and a spawned Linux, in either direction: contents, kinds, counters."""

from __future__ import annotations

import itertools
import random
from dataclasses import dataclass
from math import ceil

import pytest

from harness.lab import Lab, Pair
from harness.multikernel import messaging
from harness.multikernel.kernel import Kernel
from harness.plugin import Seen, claim

pytestmark = pytest.mark.needs("spawn", "messages")

AT_ONCE = 16
"""Messages sent one after another before anybody looks: as many as a ring of the reference series has."""


@dataclass(frozen=True)
class Way:
    """From one kernel to another: what to address there, and as whom the sender is known."""

    sender: Kernel
    receiver: Kernel
    to: int
    known_as: int
    lab: Lab


@pytest.fixture(params=["to the spawned kernel", "to the host"])
def way(request: pytest.FixtureRequest, pair: Pair) -> Way:
    dialect, number = pair.lab.dialect, pair.instance.id
    if request.param == "to the host":
        return Way(pair.spawned, pair.host, dialect.to_host, number, pair.lab)
    return Way(pair.host, pair.spawned, dialect.to_spawned(pair.instance), 0, pair.lab)


def send_all(way: Way, payloads: list[bytes]) -> None:
    """Send messages by one script, without a pause."""
    way.sender.run(
        "\n".join(f"echo '{way.to} {messaging.USER:#x} {one.hex()}' > {messaging.SEND}" for one in payloads)
    )


def take_all(way: Way, count: int) -> list[bytes]:
    """Wait until that many messages have come, for five seconds before scaling; return and forget them."""
    come = f"[ $(wc -l < {messaging.RECEIVED}) -gt {count} ]"
    patience = ceil(100 * way.receiver.factor)
    wait = f"n=0; until {come} || [ $((n += 1)) -gt {patience} ]; do usleep 50000; done"
    take = f"cat {messaging.RECEIVED}; echo clear > {messaging.RECEIVED}"
    said = way.receiver.run(f"{come} || {{ {wait}; }}; {take}", timeout=20)
    return [message.payload for message in messaging.parse_received(said)]


@claim(
    "messages of each length from nothing to the greatest arrive in their order, byte for byte",
    source="interface sheet IP-P1, IP-P2; kernels/reference/0010: in order",
)
def test_every_length(way: Way, seen: Seen) -> None:
    longest, seed = way.lab.dialect.longest_message, random.randrange(1 << 32)
    fill = random.Random(seed).randbytes
    for first in range(0, longest + 1, AT_ONCE):
        sizes = range(first, min(first + AT_ONCE, longest + 1))
        payloads = [fill(size) for size in sizes]
        send_all(way, payloads)
        arrived = take_all(way, len(payloads))
        wrong = [len(sent) for sent, came in zip(payloads, arrived, strict=False) if sent != came]
        assert arrived == payloads, (
            f"seed {seed}, lengths {sizes.start} to {sizes.stop - 1}:"
            f" {len(arrived)} came, of lengths {[*map(len, arrived)]}; others than sent at {wrong}"
        )
    seen(f"0 to {longest} bytes, {AT_ONCE} without a pause, contents by seed {seed}")


@claim(
    "what is longer than the greatest length is refused in either direction, and no part of it arrives",
    source="interface sheet IP-N1: EINVAL or EMSGSIZE",
)
def test_too_long(way: Way, seen: Seen) -> None:
    longest = way.lab.dialect.longest_message
    before = messaging.counters(way.receiver)["received"]
    said = {}
    for size in (longest + 1, longest + 8, 2 * longest, 4097, 8192):
        way.sender.channel.put("/run/long", f"{way.to} {messaging.USER:#x} {'5a' * size}\n".encode())
        result = way.sender.channel.run(f"dd if=/run/long of={messaging.SEND} bs=32k 2>&1 | grep ^dd")
        said[size] = result.text.strip().rpartition(": ")[2] or "taken"
    seen(", ".join(f"{size}: {answer}" for size, answer in said.items()))
    assert all("Message too long" in one or "Invalid argument" in one for one in said.values()), said
    messaging.send(way.sender, way.to, b"after them")
    messaging.wait_for(way.receiver, b"after them")
    assert messaging.counters(way.receiver)["received"] == before + 1, messaging.received(way.receiver)


@claim(
    "messages sent one by one are counted on both sides, and each is one interrupt of the receiver (CAL)",
    source="RFC v1 3/7: the interrupt counts as CAL; interface sheet IP-P1: it rises by 1",
)
def test_counters(pair: Pair, seen: Seen) -> None:
    def interrupts() -> int:
        words = pair.spawned.run("grep CAL: /proc/interrupts").split()
        return sum(int(word) for word in words if word.isdigit())

    to, count = pair.lab.dialect.to_spawned(pair.instance), 10
    before = (
        messaging.counters(pair.host)["sent"],
        messaging.counters(pair.spawned)["received"],
        interrupts(),
    )
    for number in range(count):
        messaging.send(pair.host, to, bytes([number]) * 8)
        messaging.wait_for(pair.spawned, bytes([number]) * 8)
    after = (
        messaging.counters(pair.host)["sent"],
        messaging.counters(pair.spawned)["received"],
        interrupts(),
    )
    grown = [new - old for new, old in zip(after, before, strict=True)]
    seen(f"{count} messages: {grown[0]} sent, {grown[1]} received, {grown[2]} interrupts")
    assert grown == [count, count, count]


@claim(
    "type, subtype and sender of a message arrive with it, whatever their values",
    source="RFC v2 14/16: mk_send_message(); kernels/reference/0010",
)
@pytest.mark.needs("instances")
def test_kinds(way: Way, seen: Seen) -> None:
    subtypes = (0, 1, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF)
    kinds = list(itertools.product((messaging.USER, messaging.USER + 1), subtypes))
    for number, (kind, subtype) in enumerate(kinds):
        messaging.send(way.sender, way.to, bytes([number]), type=kind, subtype=subtype)
        messaging.wait_for(way.receiver, bytes([number]))
    came = messaging.received(way.receiver)
    seen(f"{len(came)} messages from {sorted({one.sender for one in came})}, subtypes up to 0xffffffff")
    assert [(one.type, one.subtype) for one in came] == kinds
    assert {one.sender for one in came} == {way.known_as}
