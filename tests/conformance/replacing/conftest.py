# SPDX-License-Identifier: MIT
"""Machines whose host is to be replaced, by KHO or by plain kexec."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import msgspec
import pytest

from harness.build import Build
from harness.definition import Topology, load_topology
from harness.forks import Forks
from harness.lab import Lab, Pair
from harness.plugin import watched
from harness.progress import Progress
from harness.replacement import WITHOUT_KHO


@pytest.fixture
def by_kho() -> bool:
    """Whether the host hands over by KHO, or knows nothing of it; a test's parameter in most cases."""
    return True


@pytest.fixture
def machines(build: Build, forks: Forks, by_kho: bool) -> Callable[[Topology], Forks]:
    """Machines of a topology whose host kernel has KHO switched on or off."""

    def of(topology: Topology) -> Forks:
        arguments = () if by_kho else (WITHOUT_KHO,)
        return Forks(build, msgspec.structs.replace(topology, arguments=arguments), forks.accel)

    return of


@pytest.fixture
def lab(
    machines: Callable[[Topology], Forks], topology: Topology, request: pytest.FixtureRequest
) -> Iterator[Lab]:
    """A machine of the test's own whose host kernel is up."""
    with machines(topology).lab("booted", Progress()) as running, watched(request, running):
        yield running


@pytest.fixture
def pair(
    machines: Callable[[Topology], Forks], topology: Topology, request: pytest.FixtureRequest
) -> Iterator[Pair]:
    """A host kernel and the topology's first spawned kernel, both alive."""
    with machines(topology).lab("spawned", Progress()) as running, watched(request, running):
        yield running.pair()


@pytest.fixture
def three(machines: Callable[[Topology], Forks], request: pytest.FixtureRequest) -> Iterator[Lab]:
    """A host and a spawned Linux on two CPUs, with room for another kernel."""
    with machines(load_topology("three")).lab("spawned", Progress()) as running, watched(request, running):
        yield running
