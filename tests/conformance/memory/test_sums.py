# SPDX-License-Identifier: MIT
"""The memory of all kernels of a machine: it never overlaps, and it adds up to what the machine has."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Mapping

import pytest
from msgspec.structs import replace

from harness.definition import Pool, load_topology
from harness.lab import Lab, Pair
from harness.model import Region, common, without
from harness.multikernel.kernel import Kernel
from harness.multikernel.payload import spawn_payload
from harness.plugin import Seen, claim
from harness.vm.ram import ram_of

pytestmark = pytest.mark.needs("spawn")

LEGACY = Region(0xA0000, 0x60000)
"""Where a PC has screen and ROMs over its RAM."""
ABOVE = replace(load_topology("pair"), memory_mib=4096, pool=Pool(0x1_1000_0000, 0x2000_0000))
"""A machine with 3 GiB below the PCI hole and 1 GiB above 4 GiB, where the pool is."""


def size(regions: Iterable[Region]) -> int:
    return sum(region.size for region in regions)


def told(regions: Iterable[Region]) -> str:
    return ", ".join(map(str, regions)) or "nothing"


def require_sum(
    seen: Seen, machine: tuple[Region, ...], host: Kernel, rams: Mapping[str, Iterable[Region]]
) -> None:
    """Require that no kernel's RAM is another's, and that the host's map leaves none of the machine's out."""
    for (one, mine), (other, theirs) in itertools.combinations(rams.items(), 2):
        both = common(mine, theirs)
        assert not both, f"{one} and {other} both use {told(both)}"
    listed = [line.region for line in host.iomem() if not line.depth]
    # A host without PCI does not list what the firmware keeps.
    kept = re.findall(r"BIOS-e820: \[mem (\w+)-(\w+)\].*reserved", host.run("dmesg"))
    listed += [Region.from_bounds(int(first, 16), int(last, 16)) for first, last in kept]
    used = [region for regions in rams.values() for region in regions]
    missing = without(machine, [*listed, *used, LEGACY])
    assert not missing, f"neither the host's /proc/iomem nor the firmware tells of {told(missing)}"
    rest = without(machine, used)
    assert size(used) + size(rest) == size(machine)
    parts = ", ".join(f"{name} {size(regions) >> 20} MiB" for name, regions in rams.items())
    seen(f"{parts}, the rest {size(rest) >> 10} KiB, of {size(machine) >> 20} MiB in {told(machine)}")


@claim(
    "what two kernels use as RAM, the pool and what is reserved never overlap, and are all of the memory",
    source="interface sheet ME-P1; RFC v1 0/7: memory is partitioned between the kernels",
)
def test_adds_up(pair: Pair, seen: Seen) -> None:
    host, machine = pair.host, ram_of(pair.lab.machine).regions
    fixed = [area.region for area in pair.instance.fixed]
    spawned = without(pair.spawned.system_ram(), fixed)
    pool = pair.lab.topology.pool.region
    free = without([pool], spawned)
    require_sum(seen, machine, host, {"host": host.system_ram(), "alpha": spawned, "free pool": free})
    assert without(spawned, [pool]) == (), f"{pair.spawned.name} uses {told(spawned)}, the pool is {pool}"


@claim(
    "three spawned kernels and a host with RAM above 4 GiB never use the same memory, and leave none out",
    source="interface sheet ME-P1; RFC v2 0/16: each instance has its own memory",
)
@pytest.mark.needs("several")
@pytest.mark.parametrize("machine", ["trio"], indirect=True)
def test_three_add_up(machine: Lab, seen: Seen) -> None:
    payloads = [spawn_payload(machine, granted) for granted in machine.topology.spawned]
    regions, pool = ram_of(machine.machine).regions, machine.topology.pool.region
    assert len(regions) == 2, f"this machine's RAM is in one piece: {told(regions)}"
    rams = {
        one.instance.name: without(one.boot.ram, (area.region for area in one.instance.fixed))
        for one in payloads
    }
    outside = {name: told(without(ram, [pool])) for name, ram in rams.items() if without(ram, [pool])}
    assert not outside, f"outside the pool: {outside}"
    assert {name: size(ram) for name, ram in rams.items()} == {
        granted.name: granted.memory for granted in machine.topology.spawned
    }
    free = without([pool], itertools.chain(*rams.values()))
    require_sum(seen, regions, machine.host, {"host": machine.host.system_ram(), **rams, "free pool": free})


@claim(
    "a pool above 4 GiB is as good as one below: a kernel starts there, and has that memory",
    source="known bug V1-15: the page tables on which a kernel starts; interface sheet SP-P6",
)
@pytest.mark.needs("instances")
@pytest.mark.parametrize("machine", [ABOVE], indirect=True, ids=["above"])
def test_above_4g(machine: Lab, seen: Seen) -> None:
    payload = spawn_payload(machine, machine.topology.spawned[0])
    boot, ram = payload.boot, payload.instance.ram
    assert ram.start >= 1 << 32, f"the instance got {ram}"
    seen(f"{ram}: image at {boot.image}, boot_params at {boot.address:#x}, {payload.beats()} beats")
    assert ram.contains(boot.image)
    assert without(boot.ram, (area.region for area in payload.instance.fixed)) == (ram,)


@claim(
    "what a spawned Linux counts as its memory fits what it was granted, and is most of it",
    source="RFC v2 0/16: each instance has its own memory",
)
def test_counts_the_grant(pair: Pair, seen: Seen) -> None:
    found = re.search(r"MemTotal: +(\d+) kB", pair.spawned.read("/proc/meminfo"))
    assert found
    total = int(found[1]) << 10
    granted = size([pair.instance.ram, *(area.region for area in pair.instance.fixed)])
    seen(f"MemTotal {total >> 10} KiB of {granted >> 10} KiB")
    assert granted * 3 // 4 < total < granted
