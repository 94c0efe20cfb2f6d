# SPDX-License-Identifier: MIT
"""Loads against everything else at once, loads whose allocations fail, loads without end."""

import os

import msgspec
import pytest

from harness.definition import SpawnedKernel
from harness.lab import Lab
from harness.multikernel import calls, census
from harness.multikernel.interface import MOUNT, Interface
from harness.plugin import Seen, claim

pytestmark = pytest.mark.needs("instances", "unload", "remove")

SECONDS = 30.0 if os.environ.get("MKHARNESS_SOAK") else 1.5
SEEDS = (1, 2)
MANY = 15
TINY = 8 << 20
"""Bytes of memory that no kernel fits into."""
ENOUGH_KIB = 8.0
"""KiB that may be lost each round before it counts as a leak: two pages, less than any image has."""


def usable(mk: Interface, instance: SpawnedKernel) -> None:
    """Require that the instance can be emptied, loaded, unloaded and removed, whatever it went through."""
    if mk.state(instance.name) == mk.numbers.loaded:
        mk.unload(instance.id).require()
    if not mk.state(instance.name):
        mk.create(instance).require()
    assert mk.state(instance.name) == "ready"
    for outcome in (mk.load(instance.id), mk.unload(instance.id), mk.remove(instance.name)):
        assert outcome.ok, f"after the race: {outcome}"


def told(steps: tuple[calls.Step, ...], allowed: set[str], seen: Seen) -> None:
    """Require that every call of a race ended well or with one of the errors that make sense there."""
    for step in steps:
        seen(str(step))
        assert set(step.ended) <= allowed | {""}, f"an unforeseen error: {step}"
    assert any(step.ended.get("") for step in steps), "no call succeeded: nothing raced"


@claim(
    "loads and unloads of one instance at once leave it whole",
    source="reviewers of RFC v1: kexec corner cases",
)
@pytest.mark.parametrize("seed", SEEDS)
def test_one_instance(lab: Lab, mk: Interface, ready: SpawnedKernel, seen: Seen, seed: int) -> None:
    loops = [f"{mk.load_call(1)};{mk.unload_call(1)}"] * 2 + [mk.load_call(1), mk.unload_call(1)]
    steps = calls.race(lab.host, loops, seed=seed, seconds=SECONDS)
    told(steps, {"EBUSY", "ENOENT"}, seen)
    usable(mk, ready)


@claim(
    "loads of different instances at once get into each other's way at most by EBUSY",
    source="interface sheet KX-R1",
)
@pytest.mark.needs("several")
@pytest.mark.parametrize("seed", SEEDS)
def test_two_instances(
    mk: Interface, ready: SpawnedKernel, bravo: SpawnedKernel, seen: Seen, seed: int
) -> None:
    mk.create(bravo).require()
    loops = [f"{mk.load_call(id)};{mk.unload_call(id)}" for id in (1, 2)]
    steps = calls.race(mk.host, loops, seed=seed, seconds=SECONDS)
    told(steps, {"EBUSY", "ENOENT"}, seen)
    usable(mk, ready)
    usable(mk, bravo)


@claim("an instance may be removed and made again while others load into it", source="interface sheet KX-R1")
@pytest.mark.parametrize("seed", SEEDS)
def test_against_removal(lab: Lab, mk: Interface, ready: SpawnedKernel, seen: Seen, seed: int) -> None:
    create = mk.write_tree_call("/run/tree.dtb")  # what `ready` was made from
    loops = [
        f"{mk.remove_call(ready.name)};{create}",
        f"{mk.load_call(1)};{mk.unload_call(1)}",
        f"{mk.load_call(1)};{mk.unload_call(1)}",
    ]
    steps = calls.race(lab.host, loops, seed=seed, seconds=SECONDS)
    told(steps, {"EBUSY", "ENOENT", "EEXIST"}, seen)
    usable(mk, ready)


@claim("readers of every file are served while images come and go", source="interface sheet KX-R1, PS-R1")
@pytest.mark.needs("kimage")
def test_against_readers(lab: Lab, mk: Interface, ready: SpawnedKernel, seen: Seen) -> None:
    files = [f"{MOUNT}/device_tree", f"{MOUNT}/instances/{ready.name}/status", "/proc/kimage", "/proc/iomem"]
    readers = [f"read fd:{file} out:4096 4096" for file in files]
    loops = [f"{mk.load_call(1)};{mk.unload_call(1)}", *readers]
    steps = calls.race(lab.host, loops, seed=1, seconds=SECONDS)
    told(steps, {"EBUSY", "ENOENT"}, seen)
    assert all(set(step.ended) == {""} for step in steps[2:]), "a reader got an error"
    usable(mk, ready)


@claim(
    "loading and unloading without end costs the host no memory", source="interface sheet KX-P4: 100 loops"
)
def test_no_leak(lab: Lab, mk: Interface, ready: SpawnedKernel, seen: Seen) -> None:
    lines = [mk.load_call(ready.id), mk.unload_call(ready.id)] * 5

    def five_times() -> None:
        for outcome in calls.calls(lab.host, lines, limit=20):
            outcome.require()

    allowed = {"MemFree": 5 * ENOUGH_KIB, "SUnreclaim": 5 * ENOUGH_KIB}
    lost = census.leak(lab.host, five_times, allowed=allowed, warm_up=2)
    per_load = {name: amount / 5 for name, amount in lost.per_round.items()}
    seen(", ".join(f"{name} {amount:+.1f} KiB a load" for name, amount in per_load.items()))
    assert not lost.found, str(lost)


@pytest.mark.needs("several")
@claim("a failed load costs the host no memory", source="interface sheet KX-N4: clean-up of the error path")
@pytest.mark.parametrize("what", ["image", "command line", "initrd", "too large"])
def test_no_leak_of_failed_loads(
    lab: Lab, mk: Interface, ready: SpawnedKernel, bravo: SpawnedKernel, seen: Seen, what: str
) -> None:
    lab.host.run("head -c 300000 /bin/busybox >/run/program")
    mk.create(msgspec.structs.replace(bravo, memory=TINY)).require()
    line = {
        "image": mk.load_call(1, image="/run/program"),
        "command line": mk.load_call(1).replace(" 1 s: ", " 16 unmapped "),
        "initrd": mk.load_call(1, initrd="/run"),
        "too large": mk.load_call(2),
    }[what]

    def many_times() -> None:
        for outcome in calls.calls(lab.host, [line] * MANY, limit=20):
            assert not outcome.ok, outcome

    lost = census.leak(lab.host, many_times, allowed={"MemFree": MANY * ENOUGH_KIB}, warm_up=1)
    seen(f"{what}: MemFree {lost.per_round['MemFree'] / MANY:+.1f} KiB a load")
    assert not lost.found, str(lost)
    usable(mk, ready)


@claim(
    "a load in which any one allocation fails is refused, and leaves the instance ready",
    source="interface sheet KX-R2: failure injection in the load path",
)
@pytest.mark.needs("fault-injection")
def test_allocation_failures(lab: Lab, mk: Interface, ready: SpawnedKernel, seen: Seen) -> None:
    settings = "/sys/kernel/debug"
    lab.host.run(
        f"cd {settings}; echo N >failslab/ignore-gfp-wait; echo N >fail_page_alloc/ignore-gfp-wait;"
        " echo N >fail_page_alloc/ignore-gfp-highmem; echo 0 >fail_page_alloc/min-order;"
        " for f in failslab fail_page_alloc; do echo 0 >$f/verbose; done"
    )
    failed = 0
    for nth in range(1, 2000):
        outcome = mk.call(f"fail:{nth} {mk.load_call(ready.id)}", limit=20)
        state = mk.state(ready.name)
        if outcome.ok:
            assert state == mk.numbers.loaded, f"allocation {nth}: the load succeeded, the state is {state}"
            mk.unload(ready.id).require()
            if not outcome.injected:
                break
            continue
        failed += 1
        assert outcome.injected, f"allocation {nth} was not reached, and the load failed: {outcome}"
        assert state == "ready", f"allocation {nth}: {outcome.error}, then {state}"
    else:
        pytest.fail("a load never got by without an allocation that failed")
    seen(f"{failed} loads failed by an allocation, {nth} allocations tried")
    assert failed > 5, "hardly an allocation could be made to fail"
    usable(mk, ready)
