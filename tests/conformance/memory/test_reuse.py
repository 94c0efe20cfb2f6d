# SPDX-License-Identifier: MIT
"""Memory that comes back from an instance and goes to the next: nothing of the first may be found there."""

from __future__ import annotations

import secrets
import time

import pytest
from msgspec.structs import replace

from harness.definition import SpawnedKernel
from harness.lab import Lab
from harness.model import Region, without
from harness.multikernel.interface import Interface
from harness.multikernel.payload import FILE, Payload, spawn_payload
from harness.oracle.partition import pages_in
from harness.plugin import Seen, claim
from harness.replacement import replace_host
from harness.vm.ram import Ram, ram_of
from harness.vm.ram_scan import digests, filled, find, regions_of

pytestmark = pytest.mark.needs("spawn", "instances", "remove", "unload")

MIB = 1 << 20
SIZE, MANY = 21 * MIB + 3 * 4096, 200
"""A size that is no multiple of anything but a page: who clears in larger steps must not forget the rest."""
STATE_LIMIT = 5.0
"""Seconds until the host has noticed that a spawned kernel stopped, before scaling."""
POKED = 8
"""Numbers that the kernel itself writes into its memory."""
ENDS = ["stop", "crash", "halt", "force"]
"""How the first owner ends: by itself in two ways, asked, or not asked."""


def spread(ram: Ram, region: Region, kernel: Region, secret: bytes) -> int:
    """Write a secret all over what nobody uses of a region; return into how many pages."""
    used = [one for one in regions_of(digests(ram).pages) if one.overlaps(region)]
    free = without([region], [*used, kernel])
    for one in free:
        ram.write(one.start, secret * (one.size // len(secret)))
    return sum(one.size for one in free) >> 12


def end(payload: Payload, mk: Interface, how: str) -> None:
    """End a kernel, and wait until its instance can be removed."""
    name, id = payload.instance.name, payload.instance.id
    if how in {"halt", "force"}:
        (mk.halt if how == "halt" else mk.force)(id).require()
        return
    payload.last_command(how)
    deadline = time.monotonic() + STATE_LIMIT * mk.host.factor
    while mk.state(name) == "active":
        assert time.monotonic() < deadline, f"after {how} it is active for ever"
        time.sleep(0.02)


@claim(
    "what a kernel had in its memory is nowhere once its instance is removed, however it ended, and the next"
    " owner's memory is empty (seen from outside)",
    source="interface sheet ME-P5; known bug V2-14: memory is not scrubbed",
)
@pytest.mark.needs("halt", "force")
@pytest.mark.parametrize("how", ENDS)
def test_secret(lab: Lab, mk: Interface, alpha: SpawnedKernel, seen: Seen, how: str) -> None:
    granted = replace(alpha, memory=SIZE)
    payload = spawn_payload(lab, granted)
    region, image, ram = payload.instance.ram, payload.boot.image, ram_of(lab.machine)
    secret, word = secrets.token_bytes(64), secrets.token_bytes(8)
    # By the kernel itself, between its image and where the rest of it is.
    places = [region.start + number * (SIZE // POKED // 2) for number in range(POKED)]
    for place in places:
        payload.command(f"poke {place:#x} {int.from_bytes(word, 'little'):#x}")
    # The last one's words are on its stack until it takes others.
    payload.beats()
    pages = spread(ram, region, image, secret)
    there = [len(list(find(ram, what, [region]))) for what in (secret, word)]
    assert there == [pages * 64, POKED], f"the secrets were not written: {there}"
    end(payload, mk, how)
    mk.remove(granted.name).require()
    left = [f"{at:#x}" for what in (secret, word) for at in find(ram, what)]
    seen(f"{how}: of {pages} pages with a secret {len(left)} places are left")
    assert not left, f"after {how} and rmdir the secrets are at {len(left)} places: {left[:8]}"
    mk.create(granted).require()
    now = mk.region(granted.name)
    assert now == region, f"the next instance has {now}: the pool has not got {region} back"
    rest = regions_of(filled(ram, pages_in(ram.touched(), [region])))
    assert not rest, f"the next owner finds something in {', '.join(map(str, rest[:8]))}"


@claim(
    "a kernel, its initrd and its command line that were loaded and unloaded are gone from the pool"
    " when the instance is removed (seen from outside)",
    source="interface sheet ME-P5, RC-P4",
)
def test_unloaded(lab: Lab, mk: Interface, alpha: SpawnedKernel, seen: Seen) -> None:
    ram, pool, word = ram_of(lab.machine), lab.topology.pool.region, secrets.token_hex(16)
    marker = secrets.token_bytes(4096)
    lab.host.channel.put("/run/initrd", marker)
    image = lab.host.channel.get(FILE)
    parts = {"kernel": image[0x1200:0x1400], "initrd": marker, "command line": word.encode()}
    mk.create(replace(alpha, memory=SIZE)).require()
    mk.load(alpha.id, image=FILE, initrd="/run/initrd", arguments=word).require()
    region = mk.region(alpha.name)
    before = {name: len(list(find(ram, part, [region]))) for name, part in parts.items()}
    assert all(before.values()), f"not loaded into {region}: {before}"
    mk.unload(alpha.id).require()
    mk.remove(alpha.name).require()
    left = {name: [f"{at:#x}" for at in find(ram, part, [pool])] for name, part in parts.items()}
    rest = filled(ram, pages_in(ram.touched(), [region]))
    seen(f"copies while loaded: {before}; {len(rest)} pages of {region} are not zero afterwards")
    assert not any(left.values()), f"still in the pool: {left}"
    assert not len(rest), f"not zero: {', '.join(map(str, regions_of(rest)[:8]))}"


@claim(
    "what an earlier host's instance held is not to be found in an instance that its successor makes there"
    " (seen from outside)",
    source="interface sheet ME-P5; kernels/reference/README.md: instances that did not run are lost",
)
@pytest.mark.needs("kexec", "takeover", "kho")
def test_of_an_earlier_host(lab: Lab, mk: Interface, alpha: SpawnedKernel, seen: Seen) -> None:
    ram, word, granted = ram_of(lab.machine), secrets.token_hex(16), replace(alpha, memory=SIZE)
    mk.create(granted).require()
    mk.load(alpha.id, image=FILE, arguments=word).require()
    region = mk.region(alpha.name)
    assert list(find(ram, word.encode(), [region])), f"the command line is not in {region}"
    replace_host(lab, told=False)
    mk.mount()
    mk.create(granted).require()
    assert mk.region(alpha.name) == region, "the successor's instance has other memory: this shows nothing"
    rest = filled(ram, pages_in(ram.touched(), [region]))
    kept = [f"{at:#x}" for at in find(ram, word.encode(), [region])]
    seen(f"{len(rest)} pages of {region} are not zero, the old command line is there {len(kept)} times")
    assert not len(rest), (
        f"left there by an earlier host's instance: {', '.join(map(str, regions_of(rest)[:8]))};"
        f" its command line at {kept}"
    )


@claim(
    "a removal that runs short of memory leaves the instance, or nothing of what it had (seen from outside)",
    source="interface sheet ME-P5; kernels/reference/README.md: rmdir clears the memory, or ends with ENOMEM",
)
@pytest.mark.needs("fault-injection")
def test_removed_without_memory(lab: Lab, mk: Interface, alpha: SpawnedKernel, seen: Seen) -> None:
    ram, granted, marker = ram_of(lab.machine), replace(alpha, memory=MIB), secrets.token_bytes(4096)
    lab.host.channel.put("/run/initrd", marker)
    lab.host.run(
        "cd /sys/kernel/debug; echo N >failslab/ignore-gfp-wait; echo N >fail_page_alloc/ignore-gfp-wait;"
        " echo N >fail_page_alloc/ignore-gfp-highmem; echo 0 >fail_page_alloc/min-order;"
        " for f in failslab fail_page_alloc; do echo 0 >$f/verbose; done"
    )
    online = f"/sys/devices/system/cpu/cpu{granted.cpus[0]}/online"
    told = []
    mk.create(granted).require()
    for nth in range(1, MANY):
        mk.load(granted.id, image=FILE, initrd="/run/initrd").require()
        mk.unload(granted.id).require()
        region = mk.region(granted.name)
        assert list(find(ram, marker, [region])), f"the initrd is not in {region}"
        outcome = mk.call(f"fail:{nth} {mk.remove_call(granted.name)}")
        left = [f"{at:#x}" for at in find(ram, marker, [region])]
        if not outcome.injected:
            outcome.require()
            break
        told.append(outcome.error or "removed")
        if outcome.ok:
            assert not left, f"allocation {nth} failed: removed, and the initrd is at {', '.join(left)}"
            # A CPU that could not come back is offline like any other.
            lab.host.run(f"echo 1 >{online} 2>/dev/null || true")
            mk.create(granted).require()
        else:
            assert mk.state(granted.name) == "ready", (
                f"allocation {nth}: {outcome}, then {mk.state(granted.name)}"
            )
    else:
        pytest.fail("a removal never got by without an allocation that failed")
    seen(", ".join(f"{told.count(word)} of {len(told)} {word}" for word in sorted(set(told))))
    assert len(told) > 5, "hardly an allocation could be made to fail"
