# SPDX-License-Identifier: MIT
"""What comes after a death: the dead kernel is found, cleared away and started again, as often as need be."""

from __future__ import annotations

import secrets
import time

import pytest

from harness.definition import SpawnedKernel
from harness.faults import FAULTS, provoked
from harness.lab import Lab, Pair
from harness.multikernel import census, messaging
from harness.multikernel.interface import Interface
from harness.multikernel.payload import Payload, grant_payload, spawn_payload
from harness.oracle.partition import pages_in
from harness.plugin import Seen, claim
from harness.replacement import boot_again
from harness.scene import Scene, wait_for_state
from harness.service import gaps
from harness.vm.ram import ram_of
from harness.vm.ram_scan import filled, regions_of

pytestmark = pytest.mark.needs("spawn", "instances", "halt", "force", "unload")

DEATHS, DEATHS_OF_LINUX = 50, 10
WAYS = {"crash": "failed", "spin": "active", "hang": "active", "stop": "ready"}
"""How the payload dies, and what its instance is then."""
HALT = 30.0
"""Seconds that a host waits for a kernel to stop. Source: kernels/reference/README.md."""
SOURCE = "kernels/reference/README.md: states; issues 20 and 35 of the multikernel tree"


def clear_away(mk: Interface, payload: Payload, way: str) -> None:
    """Require the state that this death leaves, and bring the instance to ``ready``."""
    name, number = payload.instance.name, payload.instance.id
    assert wait_for_state(mk, name, WAYS[way], payload.host.factor) == WAYS[way], f"after {way}"
    if WAYS[way] == "active":
        mk.force(number).require()
    if WAYS[way] == "failed":
        mk.unload(number).require()
    assert mk.state(name) == "ready"


@claim(
    "a kernel dies fifty times in four ways and is started again; nothing is lost, its host beats on",
    source=SOURCE,
)
@pytest.mark.needs("remove")
def test_fifty_deaths(lab: Lab, mk: Interface, seen: Seen) -> None:
    before, granted = census.take(lab.host), lab.topology.spawned[0]
    payload = grant_payload(lab, granted)
    began, slots = time.monotonic(), set()
    with gaps(lab, {"host": lab.host}) as during:
        for number in range(DEATHS):
            way = list(WAYS)[number % len(WAYS)]
            payload.load()
            slots.add(payload.start().told["slot"])
            payload.last_command(way)
            clear_away(mk, payload, way)
    took = time.monotonic() - began
    mk.remove(granted.name).require()
    lost = census.take(lab.host).lost_since(before)
    seen(f"{DEATHS} deaths, {took / DEATHS * 1000:.0f} ms each with the start; host: {during['host']}")
    assert not lost, "\n".join(lost)
    assert len(slots) == 1, f"slots for messages are used up: {slots}"
    assert min(cpu.beats for cpu in during["host"].cpus.values()) > 0


@claim("a Linux panics ten times and boots again each time, and its host has all that it had", source=SOURCE)
def test_ten_deaths_of_linux(pair: Pair, live: Interface, seen: Seen) -> None:
    name, number, factor = pair.spawned.name, pair.instance.id, pair.lab.accel.factor
    listed, fault, began = [], FAULTS["panic"], time.monotonic()
    for _ in range(DEATHS_OF_LINUX):
        fault.prepare(pair.spawned)
        with provoked(pair.lab.machine, pair.spawned, (), fault):
            assert wait_for_state(live, name, "failed", factor) == "failed"
        live.unload(number).require()
        listed.append(census.take(pair.host))
        boot_again(pair)
    took = (time.monotonic() - began) / DEATHS_OF_LINUX
    seen(f"{DEATHS_OF_LINUX} deaths, {took:.1f} s each with the boot")
    assert listed[-1].lost_since(listed[0]) == []
    assert pair.spawned.run("echo alive") == "alive"


@claim(
    "an instance whose kernel failed is removed, and gives everything back, its memory cleared",
    source="interface sheet RC-P3, RC-P4, ME-P5",
)
@pytest.mark.needs("remove")
def test_removed_after_its_death(lab: Lab, mk: Interface, alpha: SpawnedKernel, seen: Seen) -> None:
    before = census.take(lab.host)
    payload = spawn_payload(lab, lab.topology.spawned[0])
    payload.last_command("crash")
    assert wait_for_state(mk, alpha.name, "failed", lab.host.factor) == "failed"
    ram, region = ram_of(lab.machine), payload.instance.ram
    assert len(filled(ram, pages_in(ram.written(), [region]))), "there was nothing to clear"
    mk.remove(alpha.name).require()
    lost = census.take(lab.host).lost_since(before)
    left = regions_of(filled(ram, pages_in(ram.written(), [region])))
    seen("; ".join(lost) or f"{', '.join(before.lists)} as before; left in {region}: {len(left)} stretches")
    assert not lost, "\n".join(lost)
    assert not left, f"memory of the dead kernel was not cleared: {', '.join(map(str, left[:8]))}"


@claim(
    "a kernel that hangs is not halted: who asks is told after a while (ETIMEDOUT), and it is active until it"
    " is forced",
    source="kernels/reference/README.md: halt: ETIMEDOUT it did not stop in 30 s, and stays active",
)
def test_hung_is_not_halted(payload: Payload, mk: Interface, seen: Seen) -> None:
    name, number = payload.instance.name, payload.instance.id
    payload.last_command("hang")
    began = time.monotonic()
    outcome = mk.halt(number, limit=2 * HALT)
    state = mk.state(name)
    seen(f"{outcome.error or 'halted'} after {time.monotonic() - began:.0f} s, then it is {state}")
    assert outcome.error == "ETIMEDOUT", f"halting a kernel that hangs returned {outcome}, and it is {state}"
    assert state == "active"
    mk.force(number).require()
    assert mk.state(name) == "ready"
    payload.load()
    payload.start()


@claim("beside a kernel that failed another one is stopped and started", source="interface sheet FI-P2")
@pytest.mark.needs("several", "cpus", "faults")
def test_start_beside_the_dead(scene: Scene, seen: Seen) -> None:
    mk, third, victim = scene.states, scene.third, scene.pair.spawned
    assert mk is not None
    assert third is not None
    fault = FAULTS["BUG in an interrupt"]
    fault.prepare(victim)
    with provoked(scene.lab.machine, victim, scene.vcpus(victim), fault):
        assert wait_for_state(mk, victim.name, "failed", scene.host.factor) == "failed"
    for _ in range(3):
        mk.halt(third.instance.id).require()
        third.load()
        third.start()
    seen(f"{third.instance.name} stopped and started 3 times, {victim.name} is {mk.state(victim.name)}")
    assert mk.state(victim.name) == "failed"


@claim("messages between two kernels go on while a third one is dead: {what}", source="interface sheet FI-P2")
@pytest.mark.needs("several", "cpus", "messages", "faults")
@pytest.mark.parametrize("what", ["BUG in an interrupt", "interrupts off on every CPU"])
def test_messages_past_the_dead(scene: Scene, seen: Seen, what: str) -> None:
    third, victim, fault = scene.third, scene.pair.spawned, FAULTS[what]
    assert third is not None
    fault.prepare(victim)
    with provoked(scene.lab.machine, victim, scene.vcpus(victim), fault):
        for size in (0, 1, 232):
            content = secrets.token_bytes(size)
            messaging.send(scene.host, third.instance.id, content)
            third.wait_for(content)
            # The payload answers what it gets.
            messaging.wait_for(scene.host, content)
    seen(f"{what} in {victim.name}: 3 messages there and back between host and {third.instance.name}")


@claim("all spawned kernels die at once, and are all started again", source=SOURCE)
@pytest.mark.needs("several", "cpus", "faults")
def test_all_at_once(scene: Scene, seen: Seen) -> None:
    mk, third, victim = scene.states, scene.third, scene.pair.spawned
    assert mk is not None
    assert third is not None
    fault = FAULTS["panic"]
    fault.prepare(victim)
    third.last_command("crash")
    with provoked(scene.lab.machine, victim, scene.vcpus(victim), fault):
        states = [wait_for_state(mk, name, "failed", scene.host.factor) for name in ("alpha", "bravo")]
    assert states == ["failed", "failed"]
    for number in (scene.pair.instance.id, third.instance.id):
        mk.unload(number).require()
    third.load()
    third.start()
    boot_again(scene.pair)
    seen("both failed, both started again")
    assert third.ticks_on()
    assert victim.run("echo alive") == "alive"
