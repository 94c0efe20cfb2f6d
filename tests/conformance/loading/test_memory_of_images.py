# SPDX-License-Identifier: MIT
"""The memory that images lie in: what else is there, what it costs the host, what is left of them."""

import struct
from collections.abc import Callable

import numpy as np
import pytest

from harness.definition import SpawnedKernel
from harness.lab import Lab
from harness.multikernel import census
from harness.multikernel.interface import LOAD_LIMIT, Interface
from harness.multikernel.payload import FILE, Payload
from harness.oracle.partition import pages_in
from harness.plugin import Seen, claim
from harness.vm.ram import ram_of
from harness.vm.ram_scan import filled, find, regions_of

pytestmark = pytest.mark.needs("instances", "unload", "halt")

PIECE = 1 << 20
"""Bytes written at once."""
ENOUGH_KIB = 1024
"""KiB of the host's memory that wander, less than any kernel has."""
SETUP_SECTS, INIT_SIZE = 0x1F1, 0x260
"""Where a bzImage says how long its real-mode part is, and how much memory it needs.
Source: Documentation/arch/x86/boot.rst."""


@claim(
    "memory of a segment that the file does not fill is zero, whatever was there before (seen from outside)",
    source="kexec_load(2): bytes of a segment beyond its buffer are zero; boot.rst: init_size",
)
def test_rest_of_a_segment(lab: Lab, mk: Interface, ready: SpawnedKernel, seen: Seen) -> None:
    ram, region = ram_of(lab.machine), mk.region(ready.name)
    lab.host.run("printf initrd >/run/initrd; head -c 65536 /boot/bzImage >/run/head")
    head, size = lab.host.channel.get("/run/head"), int(lab.host.run("stat -c %s /boot/bzImage"))
    begin = (head[SETUP_SECTS] + 1) * 512
    (needed,) = struct.unpack_from("<I", head, INIT_SIZE)
    for start in range(region.start, region.end, PIECE):
        ram.write(start, b"\xa5" * min(PIECE, region.end - start))
    mk.load(ready.id, initrd="/run/initrd").require()
    (kernel,) = find(ram, head[begin:], [region])
    (initrd,) = find(ram, b"initrd\0", [region])
    rests = {
        "kernel": (kernel + size - begin, kernel + needed),
        "initrd": (initrd + 6, (initrd | 0xFFF) + 1),
    }
    for what, (first, end) in rests.items():
        stale = np.flatnonzero(ram.array(first, end - first))
        seen(f"{end - first} bytes behind the {what} at {first:#x}: {len(stale)} are not zero")
        assert not len(stale), (
            f"{len(stale)} of {end - first} bytes of memory behind the {what} are what was there before,"
            f" the first at {first + int(stale[0]):#x}"
        )


@claim(
    "an image that is loaded is in its instance's memory, and takes none of the host's",
    source="RFC v2 05/16: the kernel's segments are placed in the instance's memory; known bug V2-06",
)
def test_costs_the_host_nothing(lab: Lab, mk: Interface, ready: SpawnedKernel, seen: Seen) -> None:
    def load() -> None:
        mk.load(ready.id, initrd="/boot/initrd").require()

    # The first time fills caches.
    load()
    mk.unload(ready.id).require()
    lost = []
    for _ in range(3):
        before = census.take(lab.host).memory
        load()
        after = census.take(lab.host).memory
        mk.unload(ready.id).require()
        taken = {key: (after[key] - before[key]) * (-1 if key in census.FREE else 1) for key in before}
        lost.append(taken)
    # What others take meanwhile is not taken each time.
    least = {key: min(taken[key] for taken in lost) for key in lost[0]}
    seen(", ".join(f"{key} {amount:+} KiB" for key, amount in least.items()))
    dear = {key: amount for key, amount in least.items() if amount > ENOUGH_KIB}
    assert not dear, f"while an image is loaded the host has less memory, in KiB: {dear}"


@claim(
    "nothing is left of an image that was unloaded once its instance is removed (seen from outside)",
    source="kernels/reference/README.md: memory is cleared and goes back to the pool; sheet ME-P5",
)
@pytest.mark.needs("remove")
def test_nothing_left(lab: Lab, mk: Interface, ready: SpawnedKernel, seen: Seen) -> None:
    ram, region = ram_of(lab.machine), mk.region(ready.name)
    mk.load(ready.id, image=FILE, initrd="/boot/initrd", arguments="word").require()
    before = filled(ram, pages_in(ram.touched(), [region]))
    mk.unload(ready.id).require()
    mk.remove(ready.name).require()
    left = filled(ram, pages_in(ram.touched(), [region]))
    seen(f"{len(before)} pages of {region} were not zero while it was loaded, {len(left)} after its removal")
    assert len(before), "nothing was loaded"
    assert not len(left), f"not cleared: {', '.join(map(str, regions_of(left)[:8]))}"


@claim(
    "in each state a load and an unload do what the table of states says, and then an image can be loaded",
    source="kernels/reference/README.md: states",
)
@pytest.mark.parametrize(
    ("state", "load", "unload"),
    [
        ("ready", "loaded", "ENOENT"),
        ("loaded", "EBUSY", "ready"),
        ("active", "EBUSY", "EBUSY"),
        ("failed", "EBUSY", "ready"),
    ],
)
def test_states(
    mk: Interface, in_state: Callable[[str], Payload], seen: Seen, *, state: str, load: str, unload: str
) -> None:
    instance = in_state(state).instance
    lines = {"load": mk.load_call(instance.id, image=FILE), "unload": mk.unload_call(instance.id)}
    # What is refused comes first: it changes nothing.
    steps = sorted({"load": load, "unload": unload}.items(), key=lambda step: step[1].islower())
    for what, expected in steps:
        outcome = mk.call(lines[what], limit=LOAD_LIMIT)
        told = outcome.error or mk.state(instance.name)
        seen(f"{state}, {what}: {told}")
        assert told == expected, f"{what} of an instance that was {state}: {outcome}, not {expected}"
        now = expected if expected.islower() else state
        assert mk.state(instance.name) == now, f"after {what} while {state}"
    if mk.state(instance.name) == "ready":
        assert mk.load(instance.id, image=FILE).ok, f"no image can be loaded after {state} and an unload"
