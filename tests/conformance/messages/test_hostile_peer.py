# SPDX-License-Identifier: MIT
"""A kernel that writes nonsense where messages go through: the payload, a Linux, or a hand from outside.

The host must neither complain nor stand still, must not take for a message what was not sent as one,
and messages must go on afterwards.
"""

from __future__ import annotations

import random
import secrets
import struct
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import pytest

from harness.errors import HarnessError
from harness.lab import BOOT_TIMEOUT, Lab, Pair
from harness.multikernel import messaging
from harness.multikernel.area import (
    HEAD,
    MAGIC,
    MESSAGE,
    MESSAGES,
    PAGE,
    ROOM,
    SLOTS,
    TAIL,
    VERSION,
    Area,
    area_of,
    message,
)
from harness.multikernel.interface import Interface
from harness.multikernel.kernel import Kernel
from harness.multikernel.payload import Payload
from harness.plugin import Seen, claim
from harness.vm.ram import Ram, ram_of

pytestmark = pytest.mark.needs("spawn", "messages", "halt", "force")

SOURCE = "kernels/reference/0010: nothing in the area for messages is trusted"
HOST, SLOT, NOBODYS_SLOT = 0, 1, 5
"""The host's slot, the first spawned kernel's, and one that nobody has."""


@dataclass(frozen=True)
class Foe:
    """A spawned kernel in slot 1, and how to write to the area in its name."""

    lab: Lab
    number: int
    area: Area
    ram: Ram
    write: Callable[[int, bytes], None]
    kernel: Kernel | Payload

    @property
    def to_host(self) -> int:
        """The ring from it to the host."""
        return self.area.ring(HOST, SLOT)

    def index(self, at: int) -> int:
        """Return a head or tail as it is now."""
        return int.from_bytes(self.ram.read(at, 4), "little")

    def put(self, ring: int, content: bytes) -> None:
        """Put a message into a ring by hand."""
        head = self.index(ring + HEAD)
        self.write(ring + MESSAGES + MESSAGE * (head % ROOM), content)
        self.write(ring + HEAD, struct.pack("<I", (head + 1) % (1 << 32)))

    def let_host_look(self, slots: Iterable[int] = (SLOT,)) -> None:
        """Have the host look into its rings, as with every new handler; wait until it has emptied these."""
        assert not messaging.hook(self.lab.host, "on 0x5fff 0")
        assert not messaging.hook(self.lab.host, "off 0x5fff 0")
        limit = time.monotonic() + 10.0 * self.lab.host.factor
        for ring in (self.area.ring(HOST, slot) for slot in slots):
            while self.index(ring + HEAD) != self.index(ring + TAIL):
                assert time.monotonic() < limit, f"the host does not take what is in the ring at {ring:#x}"
                time.sleep(0.01)

    def exchange(self) -> None:
        """Require that messages go in both directions."""
        host, content = self.lab.host, secrets.token_bytes(12)
        if isinstance(self.kernel, Payload):
            self.kernel.send(0, content, type=messaging.USER)
        else:
            messaging.send(self.kernel, 0, content)
        assert messaging.wait_for(host, content).sender == self.number
        answer = secrets.token_bytes(12)
        messaging.send(host, self.number, answer)
        if isinstance(self.kernel, Payload):
            self.kernel.wait_for(answer)
        else:
            messaging.wait_for(self.kernel, answer)


@pytest.fixture(params=["the payload", "a Linux", "from outside"])
def foe(request: pytest.FixtureRequest) -> Foe:
    if request.param == "a Linux":
        pair: Pair = request.getfixturevalue("pair")
        lab, kernel, number = pair.lab, pair.spawned, pair.instance.id

        def write(address: int, data: bytes) -> None:
            """Write by /dev/mem: for that kernel the area is no memory of its own."""
            words = struct.unpack(f"<{len(data) // 4}I", data)
            kernel.run(" && ".join(f"devmem {address + 4 * at:#x} 32 {one}" for at, one in enumerate(words)))

        return Foe(lab, number, area_of(lab.host), ram_of(lab.machine), write, kernel)
    payload: Payload = request.getfixturevalue("payload")
    lab = request.getfixturevalue("lab")
    payload.command("echo 0")
    ram = ram_of(lab.machine)
    by = payload.write if request.param == "the payload" else ram.write
    return Foe(lab, payload.instance.id, area_of(lab.host), ram, by, payload)


@claim("a ring whose head cannot be holds nobody up: nothing is delivered, and messages go on", source=SOURCE)
def test_heads(foe: Foe, seen: Seen) -> None:
    before, tried = foe.lab.host.heartbeat(), []
    for beyond in (ROOM + 1, 1 << 31, (1 << 32) - 1, 0x5A5A5A5A):
        head = (foe.index(foe.to_host + TAIL) + beyond) % (1 << 32)
        foe.write(foe.to_host + HEAD, struct.pack("<I", head))
        foe.let_host_look()
        assert messaging.received(foe.lab.host) == (), f"delivered with a head of {head:#x}"
        tried.append(f"{head:#x}")
    assert foe.lab.host.beats_since(before), "a CPU has stopped"
    foe.exchange()
    seen(f"heads {', '.join(tried)}; messages both ways afterwards")


@claim(
    "a message that says it is longer than there is room for is not delivered, the next one is", source=SOURCE
)
def test_lengths_beyond(foe: Foe, seen: Seen) -> None:
    before, lengths = foe.lab.host.heartbeat(), (233, 248, 4096, 1 << 31, (1 << 32) - 1)
    for length in lengths:
        foe.put(foe.to_host, message(messaging.USER, length, b"too long"))
        foe.let_host_look()
    foe.put(foe.to_host, message(messaging.USER, 8, b"as it is"))
    foe.let_host_look()
    messaging.wait_for(foe.lab.host, b"as it is")
    came = [one.payload for one in messaging.received(foe.lab.host)]
    seen(f"lengths {', '.join(map(str, lengths))}: none delivered; 8: {came}")
    assert came == [b"as it is"]
    assert foe.lab.host.beats_since(before), "a CPU has stopped"
    foe.exchange()


@claim("a message in the ring of nobody, or from the host to itself, is not delivered", source=SOURCE)
def test_forged(foe: Foe, seen: Seen) -> None:
    before = foe.lab.host.heartbeat()
    slots = (HOST, NOBODYS_SLOT, SLOTS - 1)
    for slot in slots:
        foe.put(foe.area.ring(HOST, slot), message(messaging.USER, 8, b"I am not"))
        # It has no need to look into a ring from itself.
        foe.let_host_look({slot} - {HOST})
    seen(f"in the rings of slots {slots}: {len(messaging.received(foe.lab.host))} delivered")
    assert messaging.received(foe.lab.host) == ()
    assert foe.lab.host.beats_since(before), "a CPU has stopped"
    foe.exchange()


@claim(
    "a receiver that writes nonsense into its ring's tail and head harms itself alone, until its next start",
    source=SOURCE,
)
@pytest.mark.parametrize("foe", ["the payload"], indirect=True)
@pytest.mark.parametrize("value", [0x7F7F7F7F, 40])
def test_tails(foe: Foe, mk: Interface, value: int, seen: Seen) -> None:
    before, ring = foe.lab.host.heartbeat(), foe.area.ring(SLOT, HOST)
    foe.write(ring + TAIL, struct.pack("<I", value))
    foe.write(ring + HEAD, struct.pack("<I", value))
    said = {messaging.refusal(foe.lab.host, foe.number, b"?") or "taken" for _ in range(2 * ROOM)}
    assert foe.lab.host.beats_since(before), "a CPU has stopped"
    assert isinstance(foe.kernel, Payload)
    mk.force(foe.number).require()
    foe.kernel.load()
    foe.kernel.start()
    foe.exchange()
    seen(f"both {value:#x}: sends are {' or '.join(sorted(said))}; messages both ways after a new start")


@claim("a message whose length changes while it is read is delivered as it was, or not at all", source=SOURCE)
def test_changed_while_read(payload: Payload, lab: Lab, seen: Seen) -> None:
    before, count, size = lab.host.heartbeat(), 200, 8
    payload.command("echo 0")
    taken = payload.command(f"tamper 0 {messaging.USER:#x} {count} {size}", timeout=60).number("taken")
    payload.send(0, b"the last one", type=messaging.USER)
    messaging.wait_for(lab.host, b"the last one")
    came = [len(one.payload) for one in messaging.received(lab.host)[:-1]]
    seen(f"of {taken} messages whose length was {size}, 233 and 2^32-1 by turns {len(came)} were delivered")
    assert taken == count
    assert set(came) <= {size}, f"lengths {sorted(set(came))}"
    assert lab.host.beats_since(before), "a CPU has stopped"


@claim(
    "a kernel that ends in the middle of a message leaves nothing of it, also for its successor",
    source=SOURCE,
)
def test_half_a_message(payload: Payload, mk: Interface, lab: Lab, seen: Seen) -> None:
    area = area_of(lab.host)
    head = int.from_bytes(ram_of(lab.machine).read(area.ring(HOST, SLOT) + HEAD, 4), "little")
    half = message(messaging.USER, 232, b"this is the first half of it")
    payload.write(area.message(HOST, SLOT, head), half)
    payload.last_command("crash")
    status = f"/sys/fs/multikernel/instances/{payload.instance.name}/status"
    lab.host.run(f"until grep -q failed {status}; do :; done")
    mk.unload(payload.instance.id).require()
    payload.load()
    payload.start()
    payload.send(0, b"whole", type=messaging.USER)
    messaging.wait_for(lab.host, b"whole")
    came = [one.payload for one in messaging.received(lab.host)]
    seen(f"{len(half)} bytes of a message, then a crash; delivered afterwards: {came}")
    assert came == [b"whole"]


@claim(
    "a kernel that gives a wrong CPU for its doorbell gets no interrupt, and its host goes on",
    source=SOURCE,
)
def test_doorbell_elsewhere(payload: Payload, lab: Lab, seen: Seen) -> None:
    before, area = lab.host.heartbeat(), area_of(lab.host)
    where = area.peer(SLOT) + 8
    for cpu in (0, 0xFE, 0xFF, 0x7FFFFFFF, 0xFFFFFFFF):
        payload.command(f"poke {where:#x} {cpu:#x} 4")
        content = secrets.token_bytes(8)
        messaging.send(lab.host, payload.instance.id, content)
        # It polls its rings all the same.
        payload.wait_for(content)
        assert lab.host.beats_since(before), f"a CPU has stopped after a doorbell for {cpu:#x}"
    payload.command(f"poke {where:#x} {payload.boot.apic_id:#x} 4")
    content = secrets.token_bytes(8)
    messaging.send(lab.host, payload.instance.id, content)
    messaging.wait_for(lab.host, content)
    seen("CPUs 0, 254, 255 and beyond: all CPUs of the host alive, messages both ways")
    assert lab.host.console.splats() == ()


@claim(
    "a kernel that takes another's id gets none of what the host sends to that one, and sends in no other's"
    " name to it",
    source="kernels/reference/0010: the host knows by itself whose slot is whose",
)
@pytest.mark.needs("several")
def test_another_id(payloads: tuple[Payload, ...], trio: Lab, seen: Seen) -> None:
    foe, other = payloads[0], payloads[1]
    mine = area_of(trio.host).peer(foe.boot.told["slot"])
    foe.command(f"poke {mine:#x} {other.instance.id} 4")
    messaging.send(trio.host, other.instance.id, b"for your eyes only")
    other.wait_for(b"for your eyes only")
    messaging.send(trio.host, foe.instance.id, b"and this is yours")
    foe.wait_for(b"and this is yours")
    foe.command("echo 0")
    foe.send(0, b"who am I?", type=messaging.USER)
    sender = messaging.wait_for(trio.host, b"who am I?").sender
    assert sender == foe.instance.id, f"its message to the host has the forged sender {sender}"
    seen(f"{foe.instance.name} calls itself {other.instance.id}: {len(foe.received())} message, its own")
    assert [one.payload for one in foe.received()] == [b"and this is yours"]
    assert [one.payload for one in other.received()] == [b"for your eyes only"]


@claim("random bytes in all rings deliver nothing, stop no CPU, and are gone with a new start", source=SOURCE)
def test_random(payload: Payload, mk: Interface, lab: Lab, seen: Seen) -> None:
    seed = random.randrange(1 << 32)
    dice, before = random.Random(seed), lab.host.heartbeat()
    payload.command("echo 0")
    area, ram = area_of(lab.host), ram_of(lab.machine)
    foe = Foe(lab, payload.instance.id, area, ram, ram.write, payload)
    for round in range(4):
        for sender in range(SLOTS):
            ring = area.ring(HOST, sender)
            page = bytearray(dice.randbytes(PAGE))
            if round % 2:
                # Such that the head can be, and messages are looked at.
                tail = foe.index(ring + TAIL)
                page[HEAD : HEAD + 4] = struct.pack("<I", (tail + dice.randrange(1, ROOM + 1)) % (1 << 32))
                page[TAIL : TAIL + 4] = struct.pack("<I", tail)
                for at in range(MESSAGES, MESSAGES + ROOM * MESSAGE, MESSAGE):
                    kind = message(messaging.USER, dice.randrange(233, 1 << 32))
                    page[at : at + len(kind)] = kind
            ram.write(ring, bytes(page))
        ram.write(area.ring(SLOT, HOST), dice.randbytes(PAGE))
        foe.let_host_look(range(1, SLOTS))
        came = messaging.received(lab.host)
        assert came == (), f"seed {seed}, round {round}: {came}"
        messaging.refusal(lab.host, payload.instance.id, b"?")
    assert lab.host.beats_since(before), f"seed {seed}: a CPU has stopped"
    mk.force(payload.instance.id).require()
    payload.load()
    payload.start()
    foe.exchange()
    seen(f"seed {seed}: {4 * (SLOTS + 1)} pages; messages both ways after a new start")
    assert lab.host.console.splats() == ()


@claim(
    "a Linux that finds the area of another version comes up, says so, and its sends are refused",
    source="kernels/reference/README.md: at least agree on MK_BOOT_VERSION and the layout of the shared area",
)
@pytest.mark.parametrize("where", [MAGIC, VERSION], ids=["magic", "version"])
def test_other_version(lab: Lab, where: int, seen: Seen) -> None:
    ram_of(lab.machine).write(area_of(lab.host).start + where, struct.pack("<I", 0xBAD))
    granted, dialect = lab.topology.spawned[0], lab.dialect
    instance = dialect.grant(lab.host, lab.topology, granted)
    arguments = " ".join(dialect.spawned_arguments(lab.topology, granted))
    dialect.load(lab.host, instance, dialect.linux, arguments)
    dialect.start(lab.host, instance)
    spawned = lab.kernel(granted.name)
    spawned.console.expect("shared area at .* is not as expected", timeout=BOOT_TIMEOUT)
    lab.await_user_space(spawned)
    with pytest.raises(HarnessError, match="No such device") as refused:
        messaging.send(spawned, 0, b"is this right?")
    seen(str(refused.value).splitlines()[-1])
    assert messaging.received(lab.host) == ()
