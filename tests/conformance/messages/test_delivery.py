# SPDX-License-Identifier: MIT
"""Messages between the host and a spawned Linux: what was taken arrives, whole, once, where it should."""

from __future__ import annotations

import time

import pytest

from harness.errors import HarnessError
from harness.lab import Lab, Pair
from harness.multikernel import messaging
from harness.multikernel.kernel import Kernel
from harness.multikernel.payload import Payload
from harness.plugin import Seen, claim

pytestmark = pytest.mark.needs("spawn", "messages")

DOORBELL = 0xEA
"""Interrupt vector of messages between kernels. Source: RFC v1 4/7 and v2, MULTIKERNEL_VECTOR."""
EACH, SIZE = 60, 128
"""Messages that each sender of a burst sends, and their size; fewer in all than a module keeps."""
PATIENCE = 2.0
"""Seconds that a message has, before scaling."""
END_LIMIT = 5.0
"""Seconds from a kernel's last word to what its host knows of it, before scaling."""


def content(sender: int, number: int) -> bytes:
    """Return a message that nobody else sends, each of its bytes the same: a torn one shows."""
    return bytes([sender << 6 | number]) * SIZE


def burst(host: Kernel, destination: int, senders: int) -> set[bytes]:
    """Let processes on as many CPUs send messages as fast as they can; return what the kernel took."""
    jobs = []
    for sender in range(senders):
        lines = [f"exec 3>/run/taken{sender}"]
        for number in range(EACH):
            payload, byte = content(sender, number).hex(), content(sender, number)[:1].hex()
            lines.append(
                f"echo '{destination} {messaging.USER:#x} {payload}' >{messaging.SEND} && echo {byte} >&3"
            )
        host.channel.put(f"/run/send{sender}", "\n".join(lines).encode())
        jobs.append(f"taskset -c {sender} sh /run/send{sender} 2>/dev/null &")
    host.run(" ".join(jobs) + " wait", timeout=60)
    taken = host.run("cat /run/taken*").split()
    return {bytes.fromhex(byte) * SIZE for byte in taken}


@claim(
    "every message whose sending succeeded arrives, once and whole, however fast they come",
    source="known bug V1-09: one slot for each CPU, overwritten by the next message",
)
@pytest.mark.parametrize("senders", [1, 2])
def test_burst(pair: Pair, seen: Seen, senders: int) -> None:
    taken = burst(pair.host, pair.lab.dialect.to_spawned(pair.instance), senders)
    assert taken, "no message was taken"
    limit = time.monotonic() + PATIENCE * pair.spawned.factor
    while len(messaging.received(pair.spawned)) < len(taken) and time.monotonic() < limit:
        time.sleep(0.1)
    arrived = [message.payload for message in messaging.received(pair.spawned)]
    torn = [payload for payload in arrived if len(set(payload)) != 1 or len(payload) != SIZE]
    twice = len(arrived) - len(set(arrived))
    lost = taken - set(arrived)
    seen(
        f"{senders} senders: {len(taken)} of {senders * EACH} taken,"
        f" {len(lost)} of them lost, {len(torn)} torn, {twice} twice"
    )
    assert not lost, f"{len(lost)} of {len(taken)} messages never arrived"
    assert not torn, f"not as any was sent: {torn[0].hex()}"
    assert not twice


@claim(
    "messages of every length up to the greatest arrive byte for byte, and longer ones are refused",
    source="RFC v1 4/7: 256 bytes; v2 14/16: 232 bytes of payload",
)
def test_lengths(pair: Pair, seen: Seen) -> None:
    longest, to = pair.lab.dialect.longest_message, pair.lab.dialect.to_spawned(pair.instance)
    for size in (1, 7, 8, longest - 1, longest):
        payload = bytes((size + 37 * place) % 256 for place in range(size))
        messaging.send(pair.host, to, payload)
        messaging.wait_for(pair.spawned, payload)
    before = len(messaging.received(pair.spawned))
    for size in (longest + 1, 4096):
        with pytest.raises(HarnessError, match="ended with status 1"):
            messaging.send(pair.host, to, bytes(size))
    seen(f"up to {longest} bytes; {longest + 1} and 4096 refused")
    assert len(messaging.received(pair.spawned)) == before


AREA = {"Multikernel Shared Memory", "mk-shared"}
"""What the series call the memory that messages go through."""


@claim(
    "the memory that messages go through is named in /proc/iomem, and a message counts as an interrupt",
    source="RFC v1 3/7, 4/7: counted as CAL, registered as a resource",
)
def test_traces(pair: Pair, seen: Seen) -> None:
    def interrupts() -> int:
        return sum(
            int(word) for word in pair.spawned.run("grep CAL: /proc/interrupts").split() if word.isdigit()
        )

    area = [str(one.region) for one in pair.host.iomem() if one.name in AREA]
    before = interrupts()
    messaging.send(pair.host, pair.lab.dialect.to_spawned(pair.instance), b"count me")
    messaging.wait_for(pair.spawned, b"count me")
    seen(f"area {', '.join(area)}; {interrupts() - before} interrupts")
    assert len(area) == 1
    assert interrupts() > before


@claim("a message to nobody is refused", source="RFC v1 4/7: EINVAL; v2 14/16: ENOENT")
def test_nobody(pair: Pair, seen: Seen) -> None:
    took = []
    for destination in (-1, 4096, 1 << 30, -(1 << 31)):
        try:
            messaging.send(pair.host, destination, b"is anybody there?")
            took.append(destination)
        except HarnessError as error:
            seen(f"{destination}: {str(error).splitlines()[-1].rpartition(': ')[2]}")
    assert not took
    assert pair.host.run("echo alive") == "alive"


@claim(
    "a message from a spawned kernel reaches the CPU of its host that it is for, and nobody else",
    source="RFC v1 5/7: one number for a CPU in all kernels; known bug V1-08: the sender's own is used",
)
def test_every_cpu_of_the_host(pair: Pair, seen: Seen) -> None:
    lost, back = [], []
    for destination in pair.lab.dialect.host_cpus(pair.host):
        payload = f"for {destination}".encode()
        messaging.send(pair.spawned, destination, payload)
        try:
            messaging.wait_for(pair.host, payload, timeout=PATIENCE)
        except HarnessError:
            lost.append(destination)
        if payload in [message.payload for message in messaging.received(pair.spawned)]:
            back.append(destination)
    seen(f"destinations {pair.lab.dialect.host_cpus(pair.host)}; not at the host: {lost or 'none'}")
    assert not back, f"what was for {back} came back to {pair.spawned.name} itself"
    assert not lost


@claim(
    "a message for a kernel that is not up yet is refused, or is there when it is",
    source="known bug V1-10: a kernel that boots clears all messages",
)
def test_early_message(lab: Lab, seen: Seen) -> None:
    granted, dialect = lab.topology.spawned[0], lab.dialect
    instance = dialect.grant(lab.host, lab.topology, granted)
    dialect.load(
        lab.host, instance, dialect.linux, " ".join(dialect.spawned_arguments(lab.topology, granted))
    )
    try:
        messaging.send(lab.host, dialect.to_spawned(instance), b"good morning")
    except HarnessError as error:
        seen(f"refused: {str(error).splitlines()[-1].rpartition(': ')[2]}")
        return
    dialect.start(lab.host, instance)
    spawned = lab.kernel(granted.name)
    lab.await_user_space(spawned)
    seen("accepted")
    messaging.wait_for(spawned, b"good morning", timeout=PATIENCE)


@claim(
    "a message for a kernel that has ended is refused",
    source="interface sheet IP-N1: a send to an instance without a kernel",
)
def test_late_message(pair: Pair, seen: Seen) -> None:
    pair.spawned.console.send("halt -f\n")
    pair.spawned.console.expect("System halted")
    destination = pair.lab.dialect.to_spawned(pair.instance)

    def send_on() -> None:
        limit = time.monotonic() + END_LIMIT * pair.host.factor
        while time.monotonic() < limit:
            messaging.send(pair.host, destination, b"good night")
            time.sleep(0.2)

    with pytest.raises(HarnessError, match="ended with status 1") as refused:
        send_on()
    seen(str(refused.value).splitlines()[-1])


@claim(
    "a flood of message interrupts from a spawned kernel leaves every CPU of the host alive",
    source="reviewers of RFC v1: interrupts that anybody may send are a denial of service",
)
def test_flood(payload: Payload, lab: Lab, seen: Seen) -> None:
    before, flood = lab.host.heartbeat(), 100_000
    cpu = lab.host.apic_ids()[0]
    payload.command(f"ipi {cpu} {DOORBELL:#x} {flood}", timeout=60)
    assert lab.host.beats_since(before), "a CPU has stopped"
    seen(f"{flood} to APIC id {cpu}, longest gap {lab.host.heartbeat().longest_gap_ms:.0f} ms")
