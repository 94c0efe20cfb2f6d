# SPDX-License-Identifier: MIT
"""Starts, stops, unloads and removals of one instance, all at once: it ends in a state that it can be in."""

import os
import time

import pytest

from harness.definition import SpawnedKernel
from harness.lab import Lab
from harness.multikernel import calls
from harness.multikernel.interface import Interface
from harness.multikernel.payload import FILE
from harness.plugin import Seen, claim

pytestmark = pytest.mark.needs("instances", "halt", "force", "unload", "remove")

SECONDS = 30.0 if os.environ.get("MKHARNESS_SOAK") else 1.5
ROUNDS = 10
DIES = 5.0
"""Seconds in which a killed process is gone, before scaling by the accelerator."""
ERRORS = {"", "EBUSY", "ENOENT", "EINVAL", "EEXIST", "ETIMEDOUT"}


def race(mk: Interface, loops: list[str], seed: int, seen: Seen) -> tuple[calls.Step, ...]:
    steps = calls.race(mk.host, loops, seed=seed, seconds=SECONDS)
    for step in steps:
        seen(str(step))
        assert set(step.ended) <= ERRORS, f"an unforeseen error: {step}"
    return steps


def whole(mk: Interface, instance: SpawnedKernel) -> None:
    """Require that the instance can be brought to its end and started once more."""
    state = mk.state(instance.name)
    assert state in {"", "ready", "loaded", "active", "failed"}, f"it is {state!r}"
    if state == "active":
        mk.force(instance.id).require()
    if state in {"loaded", "failed"}:
        mk.unload(instance.id).require()
    if not state:
        mk.create(instance).require()
    for outcome in (mk.load(instance.id, image=FILE), mk.start(instance.id), mk.force(instance.id)):
        assert outcome.ok, f"after the race: {outcome}"
    mk.remove(instance.name).require()


def load_and_start(mk: Interface, id: int) -> str:
    return f"{mk.load_call(id, image=FILE)};{mk.reboot_call(mk.numbers.start, id)}"


def stop(mk: Interface, id: int, *, force: bool) -> str:
    command = mk.numbers.force if force else mk.numbers.halt
    assert command is not None
    return mk.reboot_call(command, id)


def races(mk: Interface) -> dict[str, list[str]]:
    start, halt, force = load_and_start(mk, 1), stop(mk, 1, force=False), stop(mk, 1, force=True)
    again = f"{mk.remove_call('alpha')};{mk.write_tree_call('/run/tree.dtb')}"
    return {
        "stop against stop": [start, halt, halt],
        "stop against force": [start, halt, force],
        "force against start": [start, start, force],
        "unload against start": [start, mk.unload_call(1), force],
        "removal against start": [start, force, again],
    }


@claim("calls that start, stop, unload and remove may come at once", source="interface sheet RC-R1")
@pytest.mark.parametrize(
    "what",
    [
        "stop against stop",
        "stop against force",
        "force against start",
        "unload against start",
        "removal against start",
    ],
)
def test_at_once(mk: Interface, ready: SpawnedKernel, seen: Seen, what: str) -> None:
    # On a busy computer a round has few starts, and all of them may come too late.
    for seed in range(1, ROUNDS + 1):
        steps = race(mk, races(mk)[what], seed, seen)
        if any(step.call == mk.reboot_call(mk.numbers.start, 1) and step.ended.get("") for step in steps):
            break
    else:
        pytest.fail(f"nothing was started in {ROUNDS} rounds: nothing raced")
    whole(mk, ready)


@claim("two instances start and stop at once without touching each other", source="interface sheet SP-R1")
@pytest.mark.needs("several")
@pytest.mark.parametrize("seed", [1, 2])
def test_two_instances(
    mk: Interface, ready: SpawnedKernel, bravo: SpawnedKernel, seen: Seen, seed: int
) -> None:
    mk.create(bravo).require()
    loops = [f"{load_and_start(mk, id)};{stop(mk, id, force=id == 1)}" for id in (ready.id, bravo.id)]
    race(mk, loops, seed, seen)
    whole(mk, ready)
    whole(mk, bravo)


@claim("instances start and stop while the host's CPUs go off and on", source="interface sheet SP-R1")
@pytest.mark.parametrize("seed", [1, 2])
def test_against_hotplug(lab: Lab, mk: Interface, ready: SpawnedKernel, seen: Seen, seed: int) -> None:
    cpus = "/sys/devices/system/cpu/cpu{}/online"
    loops = [f"{load_and_start(mk, 1)};{stop(mk, 1, force=True)}"]
    loops += [f"write fdw:{cpus.format(cpu)} s:0 1;write fdw:{cpus.format(cpu)} s:1 1" for cpu in (1, 2)]
    race(mk, loops, seed, seen)
    lab.host.run("for cpu in 1 2; do echo 1 >/sys/devices/system/cpu/cpu$cpu/online; done")
    whole(mk, ready)


@claim("who is killed while it waits for a kernel to stop, dies", source="interface sheet RC-R1")
def test_killed_while_waiting(lab: Lab, mk: Interface, seen: Seen) -> None:
    from harness.multikernel.payload import spawn_payload

    payload = spawn_payload(lab, lab.topology.spawned[0])
    payload.command("refuse 1")
    outcome = mk.halt(payload.instance.id, limit=1)
    assert outcome.error == "hung", f"it did not wait: {outcome}"
    look, limit = (
        "pgrep mkctl-calls || pgrep -f 'mkctl calls' || true",
        time.monotonic() + DIES * lab.host.factor,
    )
    while (left := lab.host.run(look)) and time.monotonic() < limit:
        time.sleep(0.1)
    seen(f"killed while it waited; left over: {left or 'nobody'}")
    assert not left
    mk.force(payload.instance.id).require()
