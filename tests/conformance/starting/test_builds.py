# SPDX-License-Identifier: MIT
"""A spawned kernel of another build than its host: another configuration, modules of its own.

A definition shows it with ``spawned_kernel``; ``NAME-mixed`` is the definition NAME with it.
"""

import secrets
from collections.abc import Iterator

import pytest

from harness import paths
from harness.build import Build
from harness.build import build as build_kernel
from harness.definition import load_definition, load_topology
from harness.forks import Forks
from harness.lab import Pair
from harness.multikernel import messaging
from harness.plugin import Seen, claim, steps_shown, watched
from harness.progress import Progress
from harness.vm.accel import choose


@pytest.fixture
def mixed(request: pytest.FixtureRequest, build: Build, pytestconfig: pytest.Config) -> Iterator[Pair]:
    """Two kernels of different builds on a machine of the test's own."""
    if build.spawned_version == build.version:
        name = f"{build.definition.name}-mixed"
        if pytestconfig.getoption("--bzimage") or not (paths.KERNELS / f"{name}.toml").exists():
            pytest.skip(f"there is no definition {name}: nothing says what else to spawn")
        with steps_shown(request) as progress:
            build = build_kernel(load_definition(name), progress, series=pytestconfig.getoption("--series"))
    topology = load_topology(build.definition.topology)
    forks = Forks(build, topology, choose(pytestconfig.getoption("--accel")))
    with forks.lab("spawned", Progress()) as lab, watched(request, lab):
        yield lab.pair()


@claim(
    "a kernel of another build than its host runs beside it, and messages pass both ways",
    source="RFC v1 1/7: kernels specialised for their work run beside each other",
)
@pytest.mark.needs("spawn", "messages")
def test_other_build(mixed: Pair, seen: Seen) -> None:
    host, spawned = (
        kernel.read("/proc/sys/kernel/osrelease").strip() for kernel in (mixed.host, mixed.spawned)
    )
    seen(f"host {host}, spawned {spawned}")
    assert host != spawned, "both kernels are of one build"
    for sender, receiver, address in (
        (mixed.host, mixed.spawned, mixed.lab.dialect.to_spawned(mixed.instance)),
        (mixed.spawned, mixed.host, mixed.lab.dialect.to_host),
    ):
        payload = secrets.token_bytes(32)
        messaging.send(sender, address, payload)
        messaging.wait_for(receiver, payload)
    assert mixed.host.heartbeat().stopped_since(mixed.before_spawn) == []
