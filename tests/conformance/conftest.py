# SPDX-License-Identifier: MIT
"""What the suite's tests start from: instances that were made, and what a host looked like before."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

import pytest

from harness.build import Build
from harness.capabilities import interface_of
from harness.definition import SpawnedKernel, Topology, load_topology
from harness.forks import Forks
from harness.lab import Lab, Pair
from harness.multikernel.interface import Interface
from harness.multikernel.payload import Payload, grant_payload
from harness.plugin import watched
from harness.progress import Progress
from harness.vm.accel import choose

SMALL = 64 << 20
"""Bytes of memory that a kernel is loaded into where it need not get far."""
STATE_LIMIT = 5.0
"""Seconds until the host has noticed that a spawned kernel ended, before scaling by the accelerator."""


@pytest.fixture
def topology(forks: Forks) -> Topology:
    """The machine that the tests run on."""
    return forks.topology


@pytest.fixture
def alpha(lab: Lab) -> SpawnedKernel:
    """A grant of the machine's last CPU and a little memory, id 1, of which no instance is made yet."""
    return SpawnedKernel("alpha", 1, (lab.topology.vcpus - 1,), SMALL)


@pytest.fixture
def bravo(lab: Lab) -> SpawnedKernel:
    """Another such grant, of the CPU before, with id 2."""
    return SpawnedKernel("bravo", 2, (lab.topology.vcpus - 2,), SMALL)


@pytest.fixture
def ready(mk: Interface, alpha: SpawnedKernel) -> SpawnedKernel:
    """``alpha`` as an instance without an image."""
    mk.create(alpha).require()
    return alpha


@pytest.fixture
def loaded(mk: Interface, ready: SpawnedKernel) -> SpawnedKernel:
    """``alpha`` as an instance with an image."""
    mk.load(ready.id).require()
    return ready


@pytest.fixture
def waiting(lab: Lab) -> Payload:
    """The payload, loaded in place of the topology's first spawned kernel, and not started."""
    payload = grant_payload(lab, lab.topology.spawned[0])
    payload.load()
    return payload


@pytest.fixture
def in_state(lab: Lab, mk: Interface) -> Callable[[str], Payload]:
    """Make an instance of the payload, and bring it into a state: ready, loaded, active or failed."""

    def bring(state: str) -> Payload:
        payload = grant_payload(lab, lab.topology.spawned[0])
        if state != "ready":
            payload.load()
        if state in {"active", "failed"}:
            payload.start()
        if state == "failed":
            payload.last_command("crash")
        deadline = time.monotonic() + STATE_LIMIT * lab.host.factor
        while mk.state(payload.instance.name) != state and time.monotonic() < deadline:
            time.sleep(0.02)
        assert mk.state(payload.instance.name) == state
        return payload

    return bring


@pytest.fixture
def live(pair: Pair) -> Interface:
    """The multikernel interface of ``pair``'s host kernel, whose instance runs Linux."""
    return interface_of(pair.lab)


@pytest.fixture
def machine(request: pytest.FixtureRequest, build: Build, pytestconfig: pytest.Config) -> Iterator[Lab]:
    """A machine of the test's own with the topology (or its name) that is its parameter; its host is up."""
    wanted = request.param
    topology = load_topology(wanted) if isinstance(wanted, str) else wanted
    forks = Forks(build, topology, choose(pytestconfig.getoption("--accel")))
    with forks.lab("booted", Progress()) as lab, watched(request, lab):
        yield lab
