# SPDX-License-Identifier: MIT
"""Instances in which an image just fits, or just does not: to the page, and without harm."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from functools import cache

import pytest
from msgspec.structs import replace

from harness.definition import SpawnedKernel
from harness.lab import Lab
from harness.model import without
from harness.multikernel import census
from harness.multikernel.interface import Interface
from harness.multikernel.payload import FILE, grant_payload
from harness.plugin import Seen, claim
from harness.vm.ram import ram_of
from harness.vm.ram_scan import find

pytestmark = pytest.mark.needs("instances", "remove", "unload")

PAGE, SIZE = 4096, 2 << 20
TOO_LARGE = "EADDRNOTAVAIL"
"""Source: kernels/reference/README.md, what does not fit into the instance's memory."""


def border(fits: Callable[[int], bool], most: int) -> int:
    """Return the least number up to ``most`` for which ``fits`` says otherwise than for 0."""
    least, first = 0, fits(0)
    while most - least > 1:
        middle = (least + most) // 2
        if fits(middle) == first:
            least = middle
        else:
            most = middle
    return most


@claim(
    "an initrd that fits is loaded, one that is a page larger is refused: the pool has nothing of it outside"
    " the instance, nothing is taken, and the instance is ready",
    source="interface sheet ME-N4; known bug V2-06: host memory is taken instead",
)
def test_initrd_at_the_border(lab: Lab, mk: Interface, alpha: SpawnedKernel, seen: Seen) -> None:
    mk.create(replace(alpha, memory=SIZE)).require()
    ram, region, marker = ram_of(lab.machine), mk.region(alpha.name), secrets.token_bytes(PAGE)
    lab.host.channel.put("/run/page", marker)
    lab.host.run(
        "cp /run/page /run/all;"
        " for n in $(seq 9); do cat /run/all /run/all >/run/more; mv /run/more /run/all; done"
    )
    before = census.take(lab.host)
    outside = without([lab.topology.pool.region], [region])
    refused = 0

    @cache
    def fits(pages: int) -> bool:
        nonlocal refused
        lab.host.run(f"head -c {pages * PAGE} /run/all >/run/initrd")
        outcome = mk.load(alpha.id, image=FILE, initrd="/run/initrd" if pages else None)
        astray = [f"{at:#x}" for at in find(ram, marker, outside)]
        assert not astray, (
            f"{pages} pages, {outcome.error or 'loaded'}: in the pool outside {region} at {astray[:8]}"
        )
        if outcome.ok:
            inside = len(list(find(ram, marker, [region])))
            assert inside >= pages, f"of {pages} pages {inside} are in {region}"
            mk.unload(alpha.id).require()
        else:
            refused += 1
            assert outcome.error == TOO_LARGE, f"{pages} pages: {outcome}"
            assert mk.state(alpha.name) == "ready"
        return outcome.ok

    least = border(fits, SIZE // PAGE)
    around = {pages: fits(pages) for pages in range(least - 2, least + 3)}
    lost = census.take(lab.host).lost_since(before)
    seen(
        f"{least - 1} of {SIZE // PAGE} pages fit beside the kernel, {least} do not; {refused} loads refused"
    )
    assert list(around.values()) == [True, True, False, False, False], str(around)
    assert not lost, "\n".join(lost)


@claim(
    "the smallest instance that takes a kernel runs it; one that is a page smaller refuses it, and is ready",
    source="interface sheet ME-N4; kernels/reference/README.md: EADDRNOTAVAIL",
)
@pytest.mark.needs("spawn", "halt")
def test_smallest_instance(lab: Lab, mk: Interface, alpha: SpawnedKernel, seen: Seen) -> None:
    before = census.take(lab.host)

    @cache
    def fits(pages: int) -> bool:
        if not pages:
            return False
        mk.create(replace(alpha, memory=pages * PAGE)).require()
        outcome = mk.load(alpha.id, image=FILE)
        if outcome.ok:
            mk.unload(alpha.id).require()
        state = mk.state(alpha.name)
        mk.remove(alpha.name).require()
        assert state == "ready"
        assert outcome.error in {"", TOO_LARGE}, f"{pages} pages: {outcome}"
        return outcome.ok

    least = border(fits, 64)
    assert not fits(least - 2), f"{least - 1} pages are too few, and {least - 2} are not"
    assert fits(least + 1), f"{least} pages are enough, and {least + 1} are not"
    payload = grant_payload(lab, replace(alpha, memory=least * PAGE))
    payload.load()
    boot = payload.start()
    seen(f"{least} pages: {boot.image}, boot_params at {boot.address:#x} in {payload.instance.ram}")
    assert boot.ram == (payload.instance.ram,)
    mk.halt(alpha.id).require()
    mk.remove(alpha.name).require()
    lost = census.take(lab.host).lost_since(before)
    assert not lost, "\n".join(lost)
