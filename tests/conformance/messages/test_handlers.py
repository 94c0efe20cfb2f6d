# SPDX-License-Identifier: MIT
"""Who gets a message in a kernel: handlers of types, registered and not registered any more."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from harness.errors import HarnessError
from harness.lab import Lab, Pair
from harness.multikernel import messaging
from harness.multikernel.kernel import Kernel
from harness.multikernel.messaging import hook, hooks, parse_hooks
from harness.multikernel.payload import Payload
from harness.plugin import Seen, claim

TYPE, OTHER, NOBODYS = 0x5000, 0x5001, 0x5002
NO_FUNCTION = 9
"""Stands for NULL in mkmsg_hooks.c."""
SENT = 4
"""Messages whose handler takes long: more than one, for a look that comes late."""
RING = 16
"""Messages that the reference series keeps per sender and receiver. Source: kernels/reference/README.md."""
MODULE = "/lib/modules/mkmsg.ko"
PATIENCE = 20.0
"""Seconds for the host to handle what was sent, before scaling by the accelerator."""

delivers = pytest.mark.needs("spawn", "messages", "halt")
"""What a test needs that has the payload send."""


def wait_for_calls(kernel: Kernel, type: int, number: int, count: int) -> messaging.Hook:
    """Wait until a handler has been called so often; return what is known of it then."""
    limit = time.monotonic() + PATIENCE * kernel.factor
    while (found := hooks(kernel)[type, number]).calls < count:
        assert time.monotonic() < limit, f"{count} calls of {type:#x} {number} should come: {hooks(kernel)}"
        time.sleep(0.02)
    return found


def marker(payload: Payload, host: Kernel, text: bytes) -> None:
    """Let one more message arrive: what was sent before it has been handled then."""
    limit = time.monotonic() + PATIENCE * host.factor
    while True:
        try:
            payload.send(0, text, type=messaging.USER)
            break
        except HarnessError as error:
            if "the ring is full" not in error.what or time.monotonic() > limit:
                raise
    messaging.wait_for(host, text)


@claim("a handler that is none is refused", source="interface sheet IP-N2: register NULL")
@pytest.mark.needs("spawn")
def test_no_handler(lab: Lab, seen: Seen) -> None:
    said = hook(lab.host, f"on {TYPE:#x} {NO_FUNCTION}")
    seen(said)
    assert said == "Invalid argument"


@claim(
    "the same handler is registered for a type once: the second time EEXIST, until it is unregistered",
    source="RFC v2 14/16: mk_register_msg_handler(); interface sheet IP-N2",
)
@pytest.mark.needs("instances")
def test_registered_twice(lab: Lab, seen: Seen) -> None:
    said = [hook(lab.host, f"{word} {TYPE:#x} 0") for word in ("on", "on", "off", "on")]
    seen(f"on, on, off, on: {said}")
    assert said == ["", "File exists", "", ""]


@claim(
    "what is not registered cannot be unregistered: another type, another function, a second time",
    source="RFC v2 14/16: mk_unregister_msg_handler(); interface sheet IP-N2",
)
@pytest.mark.needs("instances")
def test_unknown(lab: Lab, seen: Seen) -> None:
    said = [
        hook(lab.host, command)
        for command in (
            f"off {NOBODYS:#x} 0",
            f"on {TYPE:#x} 0",
            f"off {TYPE:#x} 1",
            f"off {OTHER:#x} 0",
            f"off {TYPE:#x} 0",
            f"off {TYPE:#x} 0",
        )
    ]
    seen(str(said))
    missing = "No such file or directory"
    assert said == [missing, "", missing, missing, "", missing]


@claim("a handler gets the messages of its type, each once, and no others", source="kernels/reference/0010")
@delivers
def test_own_type(payload: Payload, lab: Lab, seen: Seen) -> None:
    assert not hook(lab.host, f"on {TYPE:#x} 0")
    assert not hook(lab.host, f"on {OTHER:#x} 0")
    for type, count in ((TYPE, 3), (NOBODYS, 2), (OTHER, 5), (TYPE, 4)):
        for number in range(count):
            payload.send(0, bytes(number), type=type, subtype=number)
    marker(payload, lab.host, b"that is all")
    found = hooks(lab.host)
    seen("; ".join(f"{type:#x}: {one.calls} calls" for (type, _), one in found.items()))
    assert (found[TYPE, 0].calls, found[OTHER, 0].calls) == (7, 5)
    assert [one.others for one in found.values()] == [0, 0]
    assert [(one.subtype, one.length) for one in found.values()] == [(3, 3), (4, 4)]
    assert [one.payload for one in messaging.received(lab.host)] == [b"that is all"]


@claim("each of several handlers of one type gets each message once", source="kernels/reference/0010")
@delivers
def test_several_handlers(payload: Payload, lab: Lab, seen: Seen) -> None:
    for number in (0, 1):
        assert not hook(lab.host, f"on {messaging.USER:#x} {number}")
    for number in range(5):
        payload.send(0, bytes([number]), type=messaging.USER)
    marker(payload, lab.host, b"the sixth")
    assert not hook(lab.host, f"off {messaging.USER:#x} 0")
    marker(payload, lab.host, b"the seventh")
    wait_for_calls(lab.host, messaging.USER, 1, 7)
    calls = [one.calls for one in hooks(lab.host).values()]
    seen(f"of 7 messages {calls} calls, and {len(messaging.received(lab.host))} by the module's own")
    assert calls == [6, 7]
    assert len(messaging.received(lab.host)) == 7


@claim(
    "what a handler is called with stays as it was sent while others are at work on it, though its sender"
    " goes on and finds room",
    source="kernels/reference/0010: a receiver copies a message before it looks at it",
)
@delivers
def test_sent_meanwhile(pair: Pair, seen: Seen) -> None:
    host, rounds = pair.host, 4
    # The second handler of a type is called when the first one, which takes its time, has returned.
    order = [(TYPE, 0), (TYPE, 1), (OTHER, 0), (OTHER, 1)]
    for type, number in order:
        assert not hook(host, f"on {type:#x} {number}")
    host.run(f"echo busy 10 > {messaging.HOOKS}")
    # As many of one type as there is room for, then of the other: each takes the place of one unlike it.
    types = [type for _ in range(rounds // 2) for type in (TYPE, OTHER) for _ in range(RING)]
    to = pair.lab.dialect.to_host
    lines = [f"{to} {type:#x} {number:02x}" for number, type in enumerate([*types, messaging.USER])]
    send = [f"until echo '{line}' >{messaging.SEND} 2>/dev/null; do :; done" for line in lines]
    pair.spawned.run("\n".join(send), timeout=60)
    messaging.wait_for(host, bytes([len(types)]))
    found = hooks(host)
    calls = {f"{type:#x}, {number + 1}.": found[type, number].calls for type, number in order}
    seen(f"{len(types)} messages, {RING} of a type in turn; calls by type and handler: {calls}")
    assert set(calls.values()) == {len(types) // 2}, (
        f"{len(types) // 2} messages of each type were sent, and its handlers were called so often: {calls};"
        " one was overwritten while it was delivered"
    )
    assert [one.others for one in found.values()] == [0] * len(order)


@claim(
    "after unregistering no message is delivered to the handler, and others still get theirs",
    source="kernels/reference/0010: it neither runs nor will; interface sheet IP-P2",
)
@delivers
def test_unregistered(payload: Payload, lab: Lab, seen: Seen) -> None:
    assert not hook(lab.host, f"on {TYPE:#x} 0")
    payload.send(0, b"1", type=TYPE)
    wait_for_calls(lab.host, TYPE, 0, 1)
    assert not hook(lab.host, f"off {TYPE:#x} 0")
    for number in range(5):
        payload.send(0, bytes([number]), type=TYPE)
    marker(payload, lab.host, b"for another")
    found = hooks(lab.host)[TYPE, 0]
    seen(f"{found.calls} call, {found.late} late")
    assert (found.calls, found.late) == (1, 0)


@claim(
    "unregistering returns when the handler has ended that was at work",
    source="kernels/reference/0010: it neither runs nor will when this returns",
)
@delivers
def test_running_handler(payload: Payload, lab: Lab, seen: Seen) -> None:
    assert not hook(lab.host, f"on {TYPE:#x} 0")
    lab.host.run(f"echo busy 700 > {messaging.HOOKS}")
    # The shell looks before anything is sent, by itself: on a busy computer a command may come too late.
    look = f"read type hook on calls others late busy rest <{messaging.HOOKS}"
    at_work = f'until {look} && [ "$busy" = 1 ] || [ "$calls" = {SENT} ]; do :; done; echo "$busy"'
    off = f"echo off {TYPE:#x} 0 >{messaging.HOOKS}; cat {messaging.HOOKS}"
    lab.host.run(f"({at_work}; {off}) </dev/null >/run/looked 2>&1 && mv /run/looked /run/told &")
    for _ in range(SENT):
        payload.send(0, b"this takes long", type=TYPE)
    told = lab.host.run("until cat /run/told 2>/dev/null; do usleep 100000; done", timeout=30)
    busy, _, rest = told.partition("\n")
    assert busy == "1", f"{SENT} calls of 700 ms each, and none was seen at work: {told}"
    after = parse_hooks(rest)[TYPE, 0]
    seen(f"at work when it was unregistered; afterwards: {after}")
    assert after.calls >= 1
    assert (after.on, after.busy, after.late) == (False, 0, 0)


@claim(
    "messages wait in order while a kernel has no handler at all, as many as there is room for",
    source="kernels/reference/README.md: messages wait while a kernel has no handler at all",
)
@delivers
def test_no_handler_at_all(payload: Payload, lab: Lab, seen: Seen) -> None:
    lab.host.run("rmmod mkmsg")
    payload.command("echo 0")
    waiting = [f"number {number}".encode() for number in range(RING)]
    for content in waiting:
        payload.send(0, content, type=messaging.USER)
    with pytest.raises(HarnessError, match="the ring is full"):
        payload.send(0, b"one too many", type=messaging.USER)
    lab.host.run(f"insmod {MODULE}")
    messaging.wait_for(lab.host, waiting[-1])
    arrived = [one.payload for one in messaging.received(lab.host)]
    seen(f"{RING} waited, the next was refused; {len(arrived)} arrived when there was a handler")
    assert arrived == waiting


@claim(
    "a message of a type that nobody handles is gone, also for a handler that comes later",
    source="kernels/reference/README.md: dropped if it has some but none for their type",
)
@delivers
def test_nobodys_type(payload: Payload, lab: Lab, seen: Seen) -> None:
    payload.send(0, b"for nobody", type=TYPE)
    marker(payload, lab.host, b"after it")
    assert not hook(lab.host, f"on {TYPE:#x} 0")
    marker(payload, lab.host, b"after the handler")
    found = hooks(lab.host)[TYPE, 0]
    seen(f"{found.calls} calls")
    assert found.calls == 0
    assert [one.payload for one in messaging.received(lab.host)] == [b"after it", b"after the handler"]


@claim(
    "a handler that comes and goes during a flood is never called outside of its time, others lose nothing",
    source="interface sheet IP-R3; known bug V2-11: registering races",
)
@delivers
def test_churn_in_a_flood(payload: Payload, lab: Lab, seen: Seen) -> None:
    count, rounds = 3000, 1500
    with ThreadPoolExecutor() as pool:
        flood = pool.submit(payload.flood, 0, count, 64)
        said = hook(lab.host, f"churn {messaging.NUMBERED:#x} 0 {rounds}")
        flood.result()
    got = messaging.wait_for_flood(lab.host, 0, count)
    found = hooks(lab.host)[messaging.NUMBERED, 0]
    seen(f"{rounds} times on and off in {count} messages: {found.calls} calls, {found.late} late; {got}")
    assert not said
    assert (found.late, found.others, found.on) == (0, 0, False)
    assert found.calls <= count
    assert got.count == count
    assert got.in_order


@claim(
    "the module with the handlers is unloaded and loaded during a flood, and messages go on",
    source="interface sheet IP-R3: the code of a handler is gone after unregistering",
)
@delivers
def test_module_in_a_flood(payload: Payload, lab: Lab, seen: Seen) -> None:
    count, rounds = 3000, 8
    with ThreadPoolExecutor() as pool:
        flood = pool.submit(payload.flood, 0, count, 64)
        for _ in range(rounds):
            lab.host.run(f"rmmod mkmsg && insmod {MODULE}")
        flood.result()
    marker(payload, lab.host, b"still here")
    got = messaging.floods(lab.host)[1].get(0)
    seen(f"{rounds} times during {count} messages; since the last time {got}")
    assert got is None or (got.back, got.torn) == (0, 0)
    assert lab.host.console.splats() == ()
