# SPDX-License-Identifier: MIT
"""A spawned Linux fails in every way that there is: the others live on, the host notices."""

from __future__ import annotations

import time

import pytest

from harness.faults import FAULTS, provoked
from harness.multikernel.payload import Payload
from harness.plugin import Seen, claim
from harness.scene import Scene, wait_for_state

pytestmark = pytest.mark.needs("spawn")

ways = pytest.mark.parametrize(
    "what", [pytest.param(name, marks=pytest.mark.needs(*fault.needs)) for name, fault in FAULTS.items()]
)
LASTS = 1.0
"""Seconds in which a host that is not told anything does not change its mind."""


@claim(
    "{what} in a spawned kernel: the others keep their beats, memory, clocks, interrupts and lines",
    source="RFC v1 0/7: fault isolation between kernels; interface sheet FI-P1, FI-P2",
)
@ways
def test_others_live(scene: Scene, what: str) -> None:
    scene.fail(scene.pair.spawned, what, FAULTS[what])


@claim(
    "{what} in a spawned kernel: its host knows what became of it, and uses its CPUs and memory again",
    source="kernels/reference/README.md: states; interface sheet FI-P3",
)
@pytest.mark.needs("instances", "halt", "force")
@ways
def test_noticed_and_reclaimed(scene: Scene, seen: Seen, what: str) -> None:
    fault, pair, mk = FAULTS[what], scene.pair, scene.states
    assert mk is not None
    name, number = pair.spawned.name, pair.instance.id
    fault.prepare(pair.spawned)
    began = time.monotonic()
    with provoked(scene.lab.machine, pair.spawned, scene.vcpus(pair.spawned), fault):
        wanted = {"failed": "failed", "stopped": "ready"}.get(fault.ends, "active")
        state = wait_for_state(mk, name, wanted, pair.lab.accel.factor)
        noticed = time.monotonic() - began
        if wanted == "active":
            time.sleep(LASTS)
            state = mk.state(name)
    assert state == wanted, f"after {what} it is {state}"
    if fault.ends == "lives":
        assert pair.spawned.run("echo alive", timeout=20) == "alive"
        mk.halt(number).require()
    elif fault.ends == "stuck":
        mk.force(number).require()
    elif fault.ends == "failed":
        mk.unload(number).require()
    assert mk.state(name) == "ready"
    payload = Payload(
        scene.host, scene.lab.machine, pair.lab.dialect, pair.instance, " ".join(pair.arguments)
    )
    payload.load()
    payload.start()
    told = f"{state}, it was told nothing" if wanted == "active" else f"{state} after {noticed:.1f} s"
    took = time.monotonic() - began
    seen(f"{what}: its host says {told}; another kernel runs there after {took:.1f} s")
    assert payload.ticks_on()
