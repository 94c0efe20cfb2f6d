# SPDX-License-Identifier: MIT
"""Messages to kernels that are not there, no more, or hung: the sender is told, and goes on."""

from __future__ import annotations

import time

import pytest

from harness.errors import HarnessError
from harness.lab import Lab, Pair
from harness.multikernel import messaging
from harness.multikernel.interface import Interface
from harness.multikernel.messaging import refusal
from harness.multikernel.payload import Payload
from harness.plugin import Seen, claim
from harness.scene import wait_for_state

RING = 16
"""Messages that the reference series keeps per sender and receiver. Source: kernels/reference/README.md."""
NOBODY, FULL, ONESELF = "No such file or directory", "No space left on device", "Invalid argument"
"""ENOENT, ENOSPC, EINVAL."""


@claim(
    "a message to an instance is taken exactly from its kernel's start to its end",
    source="interface sheet IP-N1: a send to an instance without a kernel",
)
@pytest.mark.needs("spawn", "messages", "halt", "force", "remove")
@pytest.mark.parametrize("end", ["stop", "crash", "force"])
def test_life(waiting: Payload, mk: Interface, lab: Lab, end: str, seen: Seen) -> None:
    payload, id = waiting, waiting.instance.id
    said = {"loaded": refusal(lab.host, id, b"too early")}
    payload.start()
    said["runs"] = refusal(lab.host, id, b"in time")
    payload.wait_for(b"in time")
    if end == "force":
        mk.force(id).require()
    else:
        payload.last_command(end)
        # Done when the host has noticed it.
        lab.host.run(
            f"until ! grep -q active /sys/fs/multikernel/instances/{payload.instance.name}/status; do :; done"
        )
    said[f"after {end}"] = refusal(lab.host, id, b"too late")
    mk.unload(id)
    mk.remove(payload.instance.name).require()
    said["removed"] = refusal(lab.host, id, b"much too late")
    seen(", ".join(f"{when}: {answer or 'taken'}" for when, answer in said.items()))
    assert list(said.values()) == [NOBODY, "", NOBODY, NOBODY]
    assert [one.payload for one in payload.received()] == [b"in time"]


@claim(
    "a kernel sends to itself or to an id that nobody has: refused as such, whatever the number",
    source="kernels/reference/0010: EINVAL to oneself, ENOENT if there is no such kernel",
)
@pytest.mark.needs("spawn", "messages", "instances")
def test_wrong_ids(pair: Pair, seen: Seen) -> None:
    before = {kernel: messaging.counters(kernel)["received"] for kernel in (pair.host, pair.spawned)}
    nobody = (-1, 2, 255, 256, 2047, 2048, 65536, (1 << 31) - 1, -(1 << 31))
    for kernel, itself in ((pair.host, 0), (pair.spawned, pair.instance.id)):
        said = {number: refusal(kernel, number, b"is anybody there?") for number in (itself, *nobody)}
        others = ", ".join({said[number] for number in nobody})
        seen(f"{kernel.name}: itself: {said[itself]}; {len(nobody)} others: {others}")
        assert said == {itself: ONESELF} | dict.fromkeys(nobody, NOBODY)
    after = {kernel: messaging.counters(kernel)["received"] for kernel in (pair.host, pair.spawned)}
    assert after == before, "a message that was refused arrived"


@claim(
    "a message to a Linux that panicked is refused, and its host goes on",
    source="interface sheet IP-N1; RFC v1 0/7: fault isolation between kernels",
)
@pytest.mark.needs("spawn", "messages")
def test_panicked(pair: Pair, seen: Seen) -> None:
    before, to = pair.host.heartbeat(), pair.lab.dialect.to_spawned(pair.instance)
    with pair.spawned.console.expected("panic|sysrq|crash|NULL|BUG|Oops"):
        pair.spawned.console.send("echo c >/proc/sysrq-trigger\n")
        pair.spawned.console.expect("end Kernel panic|instance . has stopped", trouble=False)
    assert pair.host.beats_since(before), "a CPU of the host has stopped"
    limit = time.monotonic() + 3.0 * pair.host.factor
    while not (said := refusal(pair.host, to, b"are you well?")) and time.monotonic() < limit:
        time.sleep(0.2)
    seen(said or "taken")
    assert said


@claim(
    "a spawned kernel that has ended, however it did, is no receiver for other spawned kernels, until it is"
    " started again",
    source="interface sheet IP-N1: a send to an instance without a kernel",
)
@pytest.mark.needs("spawn", "messages", "several", "halt", "force", "unload")
def test_past_its_end(payloads: tuple[Payload, ...], trio: Lab, mk_of_trio: Interface, seen: Seen) -> None:
    sender, receiver = payloads[:2]
    name, id = receiver.instance.name, receiver.instance.id
    taken = []
    for how, state in {"stop": "ready", "crash": "failed", "halt": "ready", "force": "ready"}.items():
        sender.send(id, f"before {how}".encode(), type=messaging.USER)
        receiver.wait_for(f"before {how}".encode())
        if how in {"halt", "force"}:
            (mk_of_trio.halt if how == "halt" else mk_of_trio.force)(id).require()
        else:
            receiver.last_command(how)
        assert wait_for_state(mk_of_trio, name, state, trio.host.factor) == state, f"after {how}"
        try:
            sender.send(id, b"too late", type=messaging.USER)
            taken.append(how)
        except HarnessError as refused:
            seen(f"after {how}: {refused.what.rpartition(': ')[2]}")
        mk_of_trio.unload(id)
        receiver.load()
        receiver.start()
    assert not taken, (
        f"to {sender.instance.name}, {name} lives on after {', '.join(taken)}: messages to it are sent"
    )
    assert receiver.received() == (), "it was started again and got what was sent to an earlier one"


@claim(
    "a kernel that hangs with interrupts off blocks nobody: its ring fills, others are served, it is stopped",
    source="interface sheet IP-R2; RFC v1 0/7: fault isolation between kernels",
)
@pytest.mark.needs("spawn", "messages", "several", "halt", "force")
@pytest.mark.parametrize("how", ["hang", "spin"])
def test_hung(payloads: tuple[Payload, ...], trio: Lab, mk_of_trio: Interface, how: str, seen: Seen) -> None:
    hung, well = payloads[0], payloads[1]
    hung.last_command(how)
    before = trio.host.heartbeat()
    said = [refusal(trio.host, hung.instance.id, b"old") for _ in range(RING + 2)]
    assert said == [""] * RING + [FULL] * 2
    messaging.send(trio.host, well.instance.id, b"to the other")
    well.wait_for(b"to the other")
    messaging.wait_for(trio.host, b"to the other")
    well.send(hung.instance.id, b"old", type=messaging.USER)
    mk_of_trio.force(hung.instance.id).require()
    hung.load()
    hung.start()
    messaging.send(trio.host, hung.instance.id, b"new")
    hung.wait_for(b"new")
    messaging.wait_for(trio.host, b"new")
    seen(f"{how}: {RING} taken, then ENOSPC; after a new start {len(hung.received())} message")
    assert [one.payload for one in hung.received()] == [b"new"]
    assert trio.host.beats_since(before), "a CPU of the host has stopped"


@pytest.fixture
def mk_of_trio(trio: Lab) -> Interface:
    from harness.capabilities import interface_of

    return interface_of(trio)
