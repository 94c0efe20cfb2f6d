# SPDX-License-Identifier: MIT
"""Who writes where in the pool, seen from outside: loads, running kernels, kernels that want all there is."""

from __future__ import annotations

import secrets
from collections.abc import Iterable

import numpy as np
import pytest
from msgspec.structs import replace

from harness.build import Build
from harness.definition import SpawnedKernel
from harness.lab import Lab, Pair
from harness.model import Region, without
from harness.multikernel.interface import Interface
from harness.multikernel.payload import grant_payload
from harness.plugin import Seen, claim
from harness.vm.ram import Ram, ram_of
from harness.vm.ram_pages import PAGE, Pages
from harness.vm.ram_scan import digests, find, regions_of

pytestmark = pytest.mark.needs("spawn")

MIB = 1 << 20


def written_since(ram: Ram, before: Pages, within: Region, but: Iterable[Region]) -> tuple[Region, ...]:
    """Return the pages of a region that have been written since ``before``, but for some regions."""
    pages = regions_of(np.setdiff1d(ram.written(), before))
    return without([one for one in pages if one.overlaps(within)], but)


def shared(lab: Lab) -> list[Region]:
    """Return the parts of the pool that all kernels may write to."""
    return [line.region for line in lab.host.iomem() if line.name == "mk-shared"]


@claim(
    "a load writes to no page of the pool outside its instance, and all of it is inside (seen from outside)",
    source="RFC v2 15/16: segments come from the instance's memory; RFC v1 1/7: to the segments' addresses",
)
def test_load_writes_inside(lab: Lab, build: Build, seen: Seen) -> None:
    ram, pool = ram_of(lab.machine), lab.topology.pool.region
    instance = lab.dialect.grant(lab.host, lab.topology, lab.topology.spawned[0])
    before = ram.written()
    lab.dialect.load(lab.host, instance, lab.dialect.linux, "")
    stray = written_since(ram, before, pool, [instance.ram])
    inside = sum(one.size for one in written_since(ram, before, instance.ram, []))
    least = build.bzimage.stat().st_size
    seen(
        f"{inside >> 10} KiB were written in {instance.ram}, elsewhere in the pool {len(stray)} regions;"
        f" the kernel has {least >> 10} KiB"
    )
    assert not stray, f"written outside {instance.ram}: {', '.join(map(str, stray))}"
    assert inside > least, f"{inside} bytes of {instance.ram} were written, the kernel alone has {least}"


@claim(
    "a loaded kernel is in its instance's memory byte by byte (seen from outside)",
    source="kexec_file_load(2); RFC v2 15/16: segments come from the instance's memory",
)
@pytest.mark.needs("instances")
def test_kernel_is_there(lab: Lab, mk: Interface, loaded: SpawnedKernel, build: Build, seen: Seen) -> None:
    ram, region, image = ram_of(lab.machine), mk.region(loaded.name), build.bzimage.read_bytes()
    # What follows the real-mode part, whose length is a byte of it. Source: Documentation/arch/x86/boot.rst.
    kernel = image[(image[0x1F1] + 1) * 512 :]
    found = list(find(ram, kernel[:PAGE], [region]))
    assert len(found) == 1, f"the kernel's first page is at {list(map(hex, found))} in {region}"
    there = ram.array(found[0], len(kernel))
    differing = np.flatnonzero(there != np.frombuffer(kernel, np.uint8))
    seen(f"{len(kernel)} bytes at {found[0]:#x} in {region}")
    assert not len(differing), (
        f"{len(differing)} bytes differ, the first at {found[0] + int(differing[0]):#x}"
    )
    assert region.contains(Region(found[0], len(kernel)))


@claim(
    "a spawned Linux that is out of memory writes to no page of the pool outside its own, and its host has"
    " all of its memory and goes on (seen from outside)",
    source="interface sheet ME-P2; reviewers of RFC v1: what prevents kernel A from touching B's memory",
)
def test_out_of_memory(pair: Pair, seen: Seen) -> None:
    lab, spawned, ram = pair.lab, pair.spawned, ram_of(pair.lab.machine)
    pool = lab.topology.pool.region
    agreed = [pair.instance.ram, *shared(lab), *(area.region for area in pair.instance.fixed)]
    before, beat, free = ram.written(), pair.host.heartbeat(), free_memory(pair)
    console = spawned.console
    # All but some MiB go to files; then a process that may be killed wants more than is left.
    spawned.run("mount -t tmpfs -o size=100% full /tmp")
    with console.expected("[Oo]ut of memory|oom", required=False):
        spawned.run(
            "left=$(awk '/MemAvailable/ {print int($2 / 1024) - 24}' /proc/meminfo);"
            " dd if=/dev/zero of=/tmp/full bs=1M count=$left 2>/dev/null; true",
            timeout=60,
        )
        said = spawned.run(
            "sh -c 'echo 1000 >/proc/self/oom_score_adj;"
            " exec dd if=/dev/zero of=/dev/null bs=96M count=1' 2>&1; echo status $?",
            timeout=60,
        )
        assert spawned.run("echo alive") == "alive"
        kills = spawned.run("dmesg | grep -ci 'out of memory' || true")
    stray = written_since(ram, before, pool, agreed)
    own = sum(one.size for one in written_since(ram, before, pair.instance.ram, []))
    lost = free - free_memory(pair)
    seen(
        f"{own // MIB} of {pair.instance.ram.size // MIB} MiB written, the process ended with"
        f" {said.split()[-1]}, {kills} kills; the host's free memory fell by {lost >> 10} KiB"
    )
    assert own > pair.instance.ram.size * 3 // 4, "its memory was not filled"
    assert not said.endswith("status 0"), f"it was not out of memory: {said}"
    assert not stray, f"written outside {', '.join(map(str, agreed))}: {', '.join(map(str, stray))}"
    assert lost < 16 * MIB
    assert pair.host.beats_since(beat), "a CPU of the host has stopped"


def free_memory(pair: Pair) -> int:
    """Return how many bytes the host could give to whoever wants them."""
    return int(pair.host.run("awk '/MemAvailable/ {print $2}' /proc/meminfo")) << 10


@claim(
    "a kernel that fills all of its memory leaves another's memory and the rest of the pool as they were"
    " (seen from outside)",
    source="interface sheet ME-P2: canaries in the other instance's memory and in the free pool",
)
def test_fills_its_own(lab: Lab, seen: Seen) -> None:
    first = replace(lab.topology.spawned[0], memory=32 * MIB)
    second = replace(first, name="bravo", id=first.id + 1, cpus=(first.cpus[0] - 1,))
    lab.topology = replace(lab.topology, spawned=(first, second))
    payload = grant_payload(lab, first)
    other = lab.dialect.grant(lab.host, lab.topology, second).ram
    ram, own, pool = ram_of(lab.machine), payload.instance.ram, lab.topology.pool.region
    assert not own.overlaps(other), f"{own} and {other}"
    free = Region(other.end, 16 * MIB)
    canary = secrets.token_bytes(4096)
    for region in (other, free):
        ram.write(region.start, canary * (region.size // len(canary)))
    payload.load()
    boot = payload.start()
    agreed = [*shared(lab), *(area.region for area in payload.instance.fixed)]
    hashes, before = digests(ram), ram.written()
    # All but the kernel itself, and what it still reads.
    used = [one for one in regions_of(hashes.pages) if one.overlaps(own)]
    for one in without([own], [boot.image, *used]):
        payload.command(f"fill {one.start:#x} {one.size:#x} 0x5a")
    now = digests(ram)
    filled = sum(one.size for one in written_since(ram, before, own, []))
    stray = written_since(ram, before, pool, [own, *agreed])
    changed = {name: now.of(one) != hashes.of(one) for name, one in (("bravo", other), ("free pool", free))}
    seen(
        f"{filled // MIB} MiB of {own} filled; changed elsewhere:"
        f" {', '.join(name for name, yes in changed.items() if yes) or 'nothing'}"
    )
    assert filled > own.size * 3 // 4, f"only {filled} bytes of {own} were filled"
    places = [
        one for one in regions_of(now.changed_since(hashes)) if one.overlaps(other) or one.overlaps(free)
    ]
    assert not any(changed.values()), f"{changed}: {', '.join(map(str, places))}"
    assert not stray, f"written outside {own}: {', '.join(map(str, stray))}"
    assert payload.ticks_on()
    # To the oracles that look after every test, this would be a stray write.
    ram.write(free.start, bytes(free.size))
