# SPDX-License-Identifier: MIT
"""Machines with a host, a spawned Linux and a third kernel."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import pytest

from harness.build import Build
from harness.capabilities import Found, interface_of
from harness.definition import load_topology
from harness.forks import Forks
from harness.multikernel.payload import spawn_payload
from harness.plugin import Seen, watched
from harness.progress import Progress
from harness.scene import Scene

THIRD = {"several", "cpus", "halt"}
"""What a kernel has that runs two spawned kernels at once, one of them on two CPUs."""


@pytest.fixture(scope="session")
def three_forks(build: Build, forks: Forks, capabilities: Mapping[str, Found]) -> Forks:
    """Machines for a host and two spawned kernels; for one, where a kernel cannot run two."""
    if not all(capabilities[name].present for name in THIRD):
        return forks
    return Forks(build, load_topology("three"), forks.accel)


@pytest.fixture
def scene(three_forks: Forks, request: pytest.FixtureRequest, seen: Seen) -> Iterator[Scene]:
    """A host, a spawned Linux and, where there can be two, the payload, on a machine of their own."""
    with three_forks.lab("spawned", Progress()) as lab, watched(request, lab):
        third = spawn_payload(lab, lab.topology.spawned[1]) if len(lab.topology.spawned) > 1 else None
        states = interface_of(lab) if lab.dialect.numbers is not None else None
        yield Scene(lab, lab.pair(), third, seen, states)
