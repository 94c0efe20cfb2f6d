# SPDX-License-Identifier: MIT
"""Machines with more than one spawned kernel, for messages between them."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from harness.build import Build
from harness.definition import load_topology
from harness.forks import Forks
from harness.lab import Lab
from harness.multikernel.payload import Payload, spawn_payload
from harness.plugin import watched
from harness.progress import Progress
from harness.vm.accel import choose


@pytest.fixture(scope="session")
def trio_forks(build: Build, pytestconfig: pytest.Config) -> Forks:
    """Machines for a host and three spawned kernels."""
    return Forks(build, load_topology("trio"), choose(pytestconfig.getoption("--accel")))


@pytest.fixture
def trio(trio_forks: Forks, request: pytest.FixtureRequest) -> Iterator[Lab]:
    """A machine of the test's own for three spawned kernels, of which none runs yet."""
    with trio_forks.lab("booted", Progress()) as lab, watched(request, lab):
        yield lab


@pytest.fixture
def payloads(trio: Lab) -> tuple[Payload, ...]:
    """Three payloads that run beside one host."""
    return tuple(spawn_payload(trio, granted) for granted in trio.topology.spawned)
