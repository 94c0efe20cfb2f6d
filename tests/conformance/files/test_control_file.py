# SPDX-License-Identifier: MIT
"""The file that takes device trees: how large one may be, and what is left of one that was refused."""

import fdt
import pytest
from msgspec.structs import replace

from harness.definition import SpawnedKernel
from harness.lab import Lab
from harness.multikernel import census
from harness.multikernel.devicetree import instances_blob
from harness.multikernel.interface import Interface
from harness.plugin import Seen, claim

pytestmark = pytest.mark.needs("instances", "remove", "halt")

LARGEST = 64 << 10
"""Bytes of a device tree that is taken."""
HOTPLUG = "/sys/devices/system/cpu"


def sized(kernel: SpawnedKernel, size: int) -> bytes:
    """Return a device tree of exactly ``size`` bytes: a property of the root that nobody knows fills it."""
    made = fdt.parse_dtb(instances_blob([kernel]))
    # A property is a token, its length and its name's place, a value of whole words, and a name elsewhere.
    free = size - len(made.to_dtb(version=17)) - 12
    name = "c" * ((free - 1) % 4 or 4)
    made.root.append(fdt.PropBytes(name, data=b"c" * (free - len(name) - 1)))
    blob = bytes(made.to_dtb(version=17))
    assert len(blob) == size, f"made {len(blob)} bytes instead of {size}"
    return blob


@claim(
    "a device tree of any size up to 64 KB is taken by one write, a larger one is refused",
    source="kernels/reference/README.md: in one write(2); E2BIG more than 64 KB",
)
def test_sizes(mk: Interface, alpha: SpawnedKernel, seen: Seen) -> None:
    for size in (1024, 4092, 4096, 4100, 6000, 8192, 32768, LARGEST, LARGEST + 4, 2 * LARGEST):
        outcome = mk.write_tree(sized(alpha, size))
        names = mk.names()
        seen(f"{size} bytes: {outcome.error or f'{outcome.result} taken'}")
        if size > LARGEST:
            assert (outcome.error, names) == ("E2BIG", []), f"{size} bytes: {outcome}, then {names}"
        else:
            assert (outcome.result, names) == (size, [alpha.name]), (
                f"a tree of {size} bytes: {outcome.error or outcome.result}, then instances {names}"
            )
            mk.remove(alpha.name).require()


@claim(
    "of a device tree that is refused half way nothing is left: its names, ids, CPUs and memory are free",
    source="kernels/reference/README.md: all of it is taken or none",
)
@pytest.mark.parametrize("why", ["memory", "CPU"])
def test_refused_half_way(
    lab: Lab, mk: Interface, alpha: SpawnedKernel, bravo: SpawnedKernel, seen: Seen, why: str
) -> None:
    before, second = census.take(lab.host), bravo
    if why == "memory":
        second = replace(bravo, memory=lab.topology.pool.size)
    else:
        # Its last step on the way out, once: the first instance's CPU is offline by then.
        lab.host.run(
            f"step=$(awk -F: '/sched:active/ {{ print $1 }}' {HOTPLUG}/hotplug/states);"
            f" echo $step >{HOTPLUG}/cpu{bravo.cpus[0]}/hotplug/fail"
        )
    refused = mk.create(alpha, second)
    lost = census.take(lab.host).lost_since(before)
    seen(f"{why}: {refused.error or 'accepted'}; {'; '.join(lost) or 'everything as before'}")
    assert not refused.ok, "the second instance has what it cannot have"
    assert not lost, "\n".join(["the refused device tree left something behind:", *lost])
    again = mk.create(alpha, bravo)
    assert again.ok, f"after a refused device tree the same names, ids and CPUs: {again}"
    assert [mk.state(kernel.name) for kernel in (alpha, bravo)] == ["ready", "ready"]
    for kernel in (alpha, bravo):
        mk.remove(kernel.name).require()
    lost = census.take(lab.host).lost_since(before)
    assert not lost, "\n".join(lost)
