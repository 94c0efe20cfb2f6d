# SPDX-License-Identifier: MIT
"""What the pool gives away and gets back: what was asked for, never the same twice, in the end all of it."""

from __future__ import annotations

import itertools
import re
import time
from collections.abc import Iterable

import pytest
from msgspec.structs import replace

from harness.definition import SpawnedKernel
from harness.lab import Lab
from harness.model import Region, without
from harness.multikernel import calls, census
from harness.multikernel.devicetree import instances_blob
from harness.multikernel.interface import LOAD_LIMIT, Interface
from harness.multikernel.kernel import POOL, Kernel
from harness.multikernel.payload import FILE, grant_payload
from harness.plugin import Seen, claim
from harness.vm.console import printed

pytestmark = pytest.mark.needs("instances", "remove")

PAGE, LARGE = 4096, 2 << 20
"""Bytes; every instance of the reference series begins at a multiple of LARGE."""
OWNER = re.compile(r"mk-instance-(\d+)-(.+)-region-\d+")
FEWEST, ROUND, WARM_UP = 52, 13, 2
"""Instances in all, instances a round, rounds."""
LEAK = 6
"""KiB of slab that an instance may cost: it grows by 2 to 5 anyhow, and by 10 to 20 when two pages leak."""


def shares(host: Kernel) -> tuple[Region, dict[str, list[Region]]]:
    """Return the pool, and by instance ("": none) what /proc/iomem says is taken of it."""
    lines = host.iomem()
    at = next(number for number, line in enumerate(lines) if line.name == POOL)
    pool = lines[at]
    taken: dict[str, list[Region]] = {}
    for line in itertools.takewhile(lambda line: line.depth > pool.depth, lines[at + 1 :]):
        match = OWNER.fullmatch(line.name)
        taken.setdefault(match[2] if match else "", []).append(line.region)
    return pool.region, taken


def require_accounts(host: Kernel, asked: Iterable[SpawnedKernel]) -> tuple[Region, ...]:
    """Require that each instance has what it asked for, inside the pool and alone; return what is free."""
    pool, taken = shares(host)
    every = [region for regions in taken.values() for region in regions]
    for one, other in itertools.combinations(every, 2):
        assert not one.overlaps(other), f"{one} and {other} overlap: {taken}"
    outside = without(every, [pool])
    assert not outside, f"outside the pool {pool}: {', '.join(map(str, outside))}"
    sums = {name: sum(region.size for region in regions) for name, regions in taken.items() if name}
    assert sums == {kernel.name: kernel.memory for kernel in asked}, f"/proc/iomem says {taken}"
    return without([pool], every)


def usable(free: Iterable[Region]) -> list[Region]:
    """Return the parts of free memory from a multiple of 2 MiB on, the largest first."""
    starts = [(-(-one.start // LARGE) * LARGE, one.end) for one in free]
    return sorted((Region(at, end - at) for at, end in starts if at < end), key=lambda one: -one.size)


@claim(
    "an instance has as much memory as was asked for, to the page, inside the pool, whatever the size;"
    " removed, it leaves the pool as it was",
    source="interface sheet ME-P4: the sum of the pool's children is what was given away",
)
def test_every_size(lab: Lab, mk: Interface, alpha: SpawnedKernel, seen: Seen) -> None:
    before = require_accounts(lab.host, [])
    largest = usable(before)[0].size
    sizes = [PAGE, LARGE - PAGE, LARGE + PAGE, 7 * LARGE + 3 * PAGE, largest]
    for size in sizes:
        wanted = replace(alpha, memory=size)
        outcome = mk.create(wanted)
        assert outcome.ok, f"{size} bytes of {largest}: {outcome}"
        start = mk.region(alpha.name).start
        assert start % LARGE == 0, f"{size} bytes start at {start:#x}, not aligned to 2 MiB"
        require_accounts(lab.host, [wanted])
        mk.remove(alpha.name).require()
        assert require_accounts(lab.host, []) == before, f"after an instance of {size} bytes"
    refused = mk.create(replace(alpha, memory=largest + PAGE))
    seen(f"{len(sizes)} sizes from a page to {largest >> 10} KiB; a page more: {refused.error or 'taken'}")
    assert refused.error == "ENOMEM", f"{largest + PAGE} bytes of {largest}: {refused}"
    assert require_accounts(lab.host, []) == before


@claim(
    "when other instances have all of the pool, not a page is to be had (ENOMEM), and nothing is taken",
    source="interface sheet ME-P4; kernels/reference/README.md: ENOMEM more than the pool has in one piece",
)
def test_exhausted(lab: Lab, mk: Interface, alpha: SpawnedKernel, bravo: SpawnedKernel, seen: Seen) -> None:
    whole = usable(require_accounts(lab.host, []))[0].size
    half = whole // 2 // LARGE * LARGE
    one, two = replace(alpha, memory=half), replace(bravo, memory=whole - half)
    third = SpawnedKernel("charlie", 3, (lab.topology.vcpus - 3,), PAGE)
    for kernel in (one, two):
        mk.create(kernel).require()
    left = usable(require_accounts(lab.host, [one, two]))
    before = census.take(lab.host)
    refused = mk.create(third)
    lost = census.take(lab.host).lost_since(before)
    seen(
        f"two instances have {whole >> 20} MiB, left is {left or 'nothing'};"
        f" a page: {refused.error or 'taken'}"
    )
    assert not left
    assert refused.error == "ENOMEM"
    assert not lost, "\n".join(lost)
    assert [mk.state(kernel.name) for kernel in (one, two)] == ["ready", "ready"]
    mk.remove(two.name).require()
    mk.create(third).require()
    require_accounts(lab.host, [one, third])


@claim(
    "of nine instances every second is removed: a tenth gets a gap or is refused, and when all are gone"
    " the largest fits again",
    source="interface sheet ME-P4: fragmented pool, many small instances then one large",
)
@pytest.mark.parametrize("machine", ["crowd"], indirect=True)
def test_fragments(machine: Lab, seen: Seen) -> None:
    assert machine.dialect.numbers is not None
    mk = Interface(machine.host, machine.dialect.numbers)
    mk.mount()
    whole = usable(require_accounts(mk.host, []))[0].size
    sizes = [
        PAGE,
        LARGE,
        LARGE + PAGE,
        3 * LARGE - PAGE,
        32 * LARGE,
        5 * PAGE,
        8 * LARGE,
        2 * LARGE,
        LARGE - PAGE,
    ]
    small = [SpawnedKernel(f"n{n}", n, (n,), size) for n, size in enumerate(sizes, 1)]
    mk.create(*small).require()
    require_accounts(mk.host, small)
    for outcome in calls.calls(mk.host, [mk.remove_call(kernel.name) for kernel in small[::2]]):
        outcome.require()
    left = small[1::2]
    gaps = usable(require_accounts(mk.host, left))
    # The largest gap to the last byte, the next one, and a page more than the largest.
    wanted = [SpawnedKernel(f"x{n}", 20 + n, (n,), size)
              for n, size in ((1, gaps[0].size), (3, gaps[1].size), (5, gaps[0].size + PAGE))]  # fmt: skip
    told = []
    for kernel in wanted:
        outcome = mk.create(kernel)
        told.append(f"{kernel.memory >> 10} KiB: {outcome.error or 'taken'}")
        left += [kernel] if outcome.ok else []
        require_accounts(mk.host, left)
    seen(f"gaps of {', '.join(f'{gap.size >> 10} KiB' for gap in gaps)}; {'; '.join(told)}")
    assert told[-1].endswith("ENOMEM")
    assert len(left) == 6, "; ".join(told)
    for outcome in calls.calls(mk.host, [mk.remove_call(kernel.name) for kernel in left]):
        outcome.require()
    mk.create(SpawnedKernel("all", 30, (1,), whole)).require()


@claim(
    "fifty instances made, loaded, started, stopped and removed one by one leave nothing and cost nothing",
    source="interface sheet RC-P1: everything is identical to the start",
)
@pytest.mark.needs("spawn", "halt")
def test_fifty_instances(lab: Lab, mk: Interface, alpha: SpawnedKernel, seen: Seen) -> None:
    before, alpha = census.take(lab.host), replace(alpha, memory=2 * LARGE)
    payload = grant_payload(lab, alpha)
    mk.remove(alpha.name).require()
    lab.host.channel.put("/run/alpha.dtb", instances_blob([alpha]))
    cycle = [
        mk.write_tree_call("/run/alpha.dtb"),
        mk.load_call(alpha.id, image=FILE, arguments=payload.arguments),
        mk.reboot_call(mk.numbers.start, alpha.id),
        mk.reboot_call(mk.numbers.halt or 0, alpha.id),
        mk.remove_call(alpha.name),
    ]

    def cycles() -> None:
        for outcome in calls.calls(lab.host, cycle * ROUND, limit=LOAD_LIMIT):
            outcome.require()

    # Slab grows by itself in the first of them, and by less and less.
    allowed = {"SUnreclaim": LEAK * ROUND}
    leak = census.leak(lab.host, cycles, allowed=allowed, warm_up=WARM_UP, rounds=FEWEST // ROUND - WARM_UP)
    cycled = (WARM_UP + leak.rounds) * ROUND
    lost = census.take(lab.host).lost_since(before)
    starts = payload.console.text.count("payload: ready")
    seen(f"{starts} kernels were ready; {leak}; {'; '.join(lost) or 'everything is back'}")
    assert starts == cycled, payload.console.tail()
    assert not lost, "\n".join(lost)
    # Free pages wander by hundreds of KiB a round; slab does not.
    assert not leak.found, str(leak)


@claim(
    "five Linux kernels one after another, each in an instance of its own, leave nothing behind",
    source="interface sheet RC-P1, RC-P4",
)
@pytest.mark.needs("spawn", "halt")
def test_five_linuxes(lab: Lab, mk: Interface, seen: Seen) -> None:
    granted = replace(lab.topology.spawned[0], memory=96 << 20)
    console = lab.machine.console(granted.name)
    up = re.compile(printed(f"user space is up on {granted.name}"))
    arguments = " ".join(lab.dialect.spawned_arguments(lab.topology, granted))
    before, regions, took = census.take(lab.host), set(), []
    for _ in range(5):
        began, mark = time.monotonic(), console.mark
        instance = lab.dialect.grant(lab.host, lab.topology, granted)
        regions.add(instance.ram)
        lab.dialect.load(lab.host, instance, lab.dialect.linux, arguments)
        lab.dialect.start(lab.host, instance)
        while not up.search(console.transcript[mark:].decode(errors="replace")):
            assert time.monotonic() - began < 40 * lab.accel.factor, f"it does not come up:\n{console.tail()}"
            time.sleep(0.02)
        mk.halt(granted.id).require()
        mk.call(mk.remove_call(granted.name), limit=LOAD_LIMIT).require()
        took.append(time.monotonic() - began)
    lost = census.take(lab.host).lost_since(before)
    seen(f"{', '.join(f'{one:.1f}' for one in took)} s in {', '.join(map(str, regions))}")
    assert len(regions) == 1
    assert not lost, "\n".join(lost)
