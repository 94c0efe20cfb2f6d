# SPDX-License-Identifier: MIT
"""More kernels than a PC has serial ports for: each has a console and an agent of its own.

The machine is brought up once, with three of its eight spawned kernels; each test has a fork.
"""

from __future__ import annotations

import subprocess
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path

import pytest

from harness.build import Build
from harness.definition import load_topology
from harness.lab import Lab, Pair
from harness.multikernel.kernel import Kernel
from harness.oracle.processors import processors
from harness.plugin import Seen, claim, watched
from harness.progress import Progress
from harness.vm import memory, snapshot
from harness.vm.accel import choose
from harness.vm.console import printed
from harness.vm.snapshot import Stage

pytestmark = pytest.mark.needs("spawn", "several")

NAMES = ("alpha", "bravo", "charlie")


@pytest.fixture(scope="module")
def stage(build: Build, pytestconfig: pytest.Config) -> Iterator[Callable[[], Stage]]:
    """Make a host kernel and three spawned kernels, frozen, at the first call: not for tests that skip."""
    topology = load_topology("crowd")
    accel = choose(pytestconfig.getoption("--accel"))
    root = memory.SHM if memory.room(memory.SHM) > 2 * topology.memory_mib << 20 else None
    folder = Path(tempfile.mkdtemp(prefix="mkharness-crowd-", dir=root))

    @cache
    def make() -> Stage:
        # A second try is made where the first one failed.
        (folder / "stage").mkdir(exist_ok=True)
        with Lab(build, topology, accel, Progress(), ram_folders=(folder,)) as lab:
            for name in NAMES:
                lab.pair(name)
            lab.freeze(folder / "stage")
        made = snapshot.read(folder / "stage")
        assert made is not None
        return made

    try:
        yield make
    finally:
        subprocess.run(["rm", "-rf", folder], check=True)


@pytest.fixture
def crowd(stage: Callable[[], Stage], build: Build, request: pytest.FixtureRequest) -> Iterator[Lab]:
    """A machine of the test's own with four live kernels."""
    accel = choose(request.config.getoption("--accel"))
    with Lab(build, load_topology("crowd"), accel, Progress(), stage=stage()) as lab, watched(request, lab):
        yield lab


def pairs(lab: Lab) -> list[Pair]:
    return [lab.pair(name) for name in NAMES]


def kernels(lab: Lab) -> list[Kernel]:
    return [lab.host, *(pair.spawned for pair in pairs(lab))]


@claim(
    "several spawned kernels are alive at once, each with CPUs and memory of its own",
    source="RFC v2 0/16: each instance has its own CPUs and memory",
)
def test_alive_at_once(crowd: Lab, seen: Seen) -> None:
    with ThreadPoolExecutor() as pool:
        names = list(pool.map(lambda kernel: kernel.run("hostname").strip(), kernels(crowd)))
    assert names == ["host", *NAMES]
    cpus = [kernel.apic_ids() for kernel in kernels(crowd)]
    seen(", ".join(f"{name} APIC ids {ids}" for name, ids in zip(names, cpus, strict=True)))
    assert [pair.instance.apic_ids for pair in pairs(crowd)] == cpus[1:]
    assert len(set().union(*cpus)) == sum(map(len, cpus)), "a CPU is online in two kernels"
    running = processors(crowd.machine)
    for pair in pairs(crowd):
        ram = pair.instance.ram
        inside = tuple(p.index for p in running if ram.start <= p.cr3 < ram.end)
        assert inside == pair.instance.apic_ids, "\n".join(map(str, running))


@claim(
    "each kernel has a console of its own, whatever the others do",
    source="RFC v1 0/7: several kernel instances on one machine",
)
def test_consoles_of_their_own(crowd: Lab, seen: Seen) -> None:
    for kernel in kernels(crowd):
        kernel.run(f"echo '<5>word of {kernel.name}' >/dev/kmsg")
        kernel.console.expect(f"word of {kernel.name}\r?\n")
        kernel.console.send("echo typed in $(hostname)\n")
        kernel.console.expect("\n" + printed(f"typed in {kernel.name}") + r"\r?\n")
    for kernel in kernels(crowd):
        others = {other.name for other in kernels(crowd)} - {kernel.name}
        assert kernel.console.saw("Linux version"), f"{kernel.name} printed no banner"
        for word in ("word of", "typed in", "mkh: user space is up on"):
            assert kernel.console.text.count(f"\n{word} {kernel.name}") <= 1, "it printed everything twice"
            assert not [other for other in others if kernel.console.saw(f"{word} {other}")]
    seen(f"{len(kernels(crowd))} kernels print and listen on lines of their own")


@claim(
    "a spawned kernel starts beside three others and leaves them alone",
    source="RFC v1 0/7: several kernel instances on one machine",
)
def test_one_more(crowd: Lab, seen: Seen) -> None:
    others = kernels(crowd)
    before = crowd.host.heartbeat()
    fourth = crowd.pair("delta").spawned
    assert fourth.run("hostname").strip() == "delta"
    data = bytes(range(256)) * 64
    for kernel in (*others, fourth):
        kernel.channel.put("/run/data", data)
        assert kernel.channel.get("/run/data") == data, f"the agent's line of {kernel.name} lost bytes"
    assert crowd.host.heartbeat().stopped_since(before) == []
    seen(f"{', '.join(kernel.name for kernel in others)} answer beside delta; {len(data)} bytes both ways")
