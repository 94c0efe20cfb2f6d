# SPDX-License-Identifier: MIT
"""How a spawned Linux comes to its end, and what the host has again afterwards."""

import time

import pytest
from msgspec.structs import replace

from harness.capabilities import interface_of
from harness.definition import SpawnedKernel
from harness.lab import Lab, Pair
from harness.multikernel import census
from harness.multikernel.interface import Interface
from harness.multikernel.kernel import Kernel
from harness.oracle.partition import pages_in
from harness.oracle.processors import processors
from harness.plugin import Seen, claim
from harness.replacement import boot_again
from harness.vm.ram import ram_of
from harness.vm.ram_scan import digests, filled, regions_of

pytestmark = pytest.mark.needs("spawn")

STATE_LIMIT = 20.0
"""Seconds until the host has noticed that a kernel ended, before scaling by the accelerator."""
ENDS = {
    "poweroff": ("poweroff -f", "ready"),
    "halt": ("halt -f", "ready"),
    "reboot": ("reboot -f", "ready"),
    "sysrq reboot": ("echo b >/proc/sysrq-trigger", "ready"),
    "sysrq poweroff": ("echo o >/proc/sysrq-trigger", "ready"),
    "panic": ("echo c >/proc/sysrq-trigger", "failed"),
}


def wait_for_state(mk: Interface, name: str, factor: float) -> str:
    """Wait until an instance is no longer active; return its state."""
    limit = time.monotonic() + STATE_LIMIT * factor
    while (state := mk.state(name)) == "active" and time.monotonic() < limit:
        time.sleep(0.05)
    return state


def inside(pair: Pair) -> tuple[int, ...]:
    """Return the vCPUs that have the spawned kernel's page tables; a stopped one keeps them under TCG."""
    ram = pair.instance.ram
    return tuple(p.index for p in processors(pair.lab.machine) if ram.start <= p.cr3 < ram.end)


def stands_still(pair: Pair) -> bool:
    """Say whether its CPUs are halted, and none of its memory changes for a second (seen from outside)."""
    ram, region = ram_of(pair.lab.machine), pair.instance.ram
    before = digests(ram)
    time.sleep(1.0)
    changed = regions_of(digests(ram).changed_since(before))
    halted = {p.index for p in processors(pair.lab.machine) if p.halted}
    return not any(map(region.overlaps, changed)) and halted >= set(pair.instance.apic_ids)


@claim(
    "whatever ends a spawned kernel by its own hand leaves its host alive",
    source="known bug V1-16; reviewers of RFC v1: what prevents one kernel from resetting everything",
)
@pytest.mark.parametrize("how", ENDS)
def test_host_lives(pair: Pair, seen: Seen, how: str) -> None:
    before = pair.host.heartbeat()
    with pair.spawned.console.expected("panic|sysrq|crash|NULL|BUG|Oops", required=False):
        pair.spawned.console.send(f"{ENDS[how][0]}\n")
        time.sleep(1.0 * pair.lab.accel.factor)
    ended = pair.lab.machine.ended()
    if ended is not None:
        pair.lab.machine.end_awaited = True
    seen(f"{how}: {ended or 'the machine runs'}")
    assert ended is None, f"{how} in {pair.spawned.name} ended the whole machine: {ended}"
    assert pair.host.beats_since(before), "CPUs of the host stand still"


@claim(
    "the host knows of a kernel that ended by its own hand, whatever ended it, and has all its CPUs back",
    source="kernels/reference/README.md: what makes it ready, and what failed",
)
@pytest.mark.needs("halt")
@pytest.mark.parametrize("how", ENDS)
def test_known_to_the_host(pair: Pair, live: Interface, seen: Seen, how: str) -> None:
    command, expected = ENDS[how]
    with pair.spawned.console.expected("panic|sysrq|crash|NULL|BUG|Oops", required=False):
        pair.spawned.console.send(f"{command}\n")
        state = wait_for_state(live, pair.spawned.name, pair.lab.accel.factor)
    seen(f"{how}: {state}; its page tables are on vCPUs {inside(pair)}")
    assert state == expected, f"after {how} its status is {state}:\n{pair.spawned.console.tail()}"
    assert inside(pair) == (), "CPUs are in its memory still"


@claim(
    "an instance whose kernel ended is not active any more, and starts again when it is loaded again",
    source="kernels/reference/README.md: states",
)
@pytest.mark.needs("halt")
@pytest.mark.parametrize("how", ["poweroff", "panic"])
def test_again_after_its_end(pair: Pair, live: Interface, seen: Seen, how: str) -> None:
    command, expected = ENDS[how]
    name, id = pair.spawned.name, pair.instance.id
    with pair.spawned.console.expected("panic|sysrq|crash|NULL|BUG|Oops", required=False):
        pair.spawned.console.send(f"{command}\n")
        state = wait_for_state(live, name, pair.lab.accel.factor)
    seen(f"{how}: {state}")
    assert state == expected
    assert stands_still(pair), "its CPU still runs it"
    if state == "failed":
        live.unload(id).require()
    boot_again(pair)


@claim(
    "a Linux that is asked to stop has left its CPUs when the call returns (seen from outside)",
    source="multikernel tree: LINUX_REBOOT_CMD_MULTIKERNEL_HALT",
)
@pytest.mark.needs("halt", "force")
@pytest.mark.parametrize("how", ["halt", "force"])
def test_asked_to_stop(pair: Pair, live: Interface, seen: Seen, how: str) -> None:
    assert inside(pair) == pair.instance.apic_ids
    (live.halt if how == "halt" else live.force)(pair.instance.id).require()
    still = stands_still(pair)
    # By now what it printed before its end has been read, on a busy computer as well.
    pair.lab.machine.drain()
    mark = pair.spawned.console.mark
    time.sleep(0.3)
    seen(f"{how}: {live.state(pair.spawned.name)}; its memory {'stands still' if still else 'still changes'}")
    assert still
    assert live.state(pair.spawned.name) == "ready"
    assert pair.spawned.console.mark == mark, "its console goes on"


@claim(
    "of a Linux on two CPUs none runs on when the call that stops it returns (seen from outside)",
    source="kernels/reference/README.md: both return once every CPU has left the kernel",
)
@pytest.mark.needs("halt", "force", "cpus")
@pytest.mark.parametrize("how", ["halt", "force"])
def test_every_cpu(lab: Lab, seen: Seen, how: str) -> None:
    alpha = lab.topology.spawned[0]
    lab.topology = replace(lab.topology, spawned=(replace(alpha, cpus=(*alpha.cpus, alpha.cpus[0] - 1)),))
    pair = lab.pair()
    pair.spawned.start_heartbeat()
    granted, mk = sorted(pair.instance.apic_ids), interface_of(lab)
    assert sorted(inside(pair)) == granted, f"it runs on vCPUs {inside(pair)}"
    (mk.halt if how == "halt" else mk.force)(pair.instance.id).require()
    left, still = inside(pair), stands_still(pair)
    seen(f"{how}: on vCPUs {granted} before, {left or 'none'} afterwards; {mk.state(alpha.name)}")
    assert not left, f"after {how} vCPUs {left} are not halted outside its memory: they run on"
    assert still, "its memory still changes"
    assert mk.state(alpha.name) == "ready"
    mk.remove(alpha.name).require()
    for cpu in pair.instance.spawned.cpus:
        assert lab.host.run(f"taskset -c {cpu} echo runs") == "runs", f"nothing runs on CPU {cpu}"


@claim(
    "Linux is started and stopped ten times in one instance",
    source="issues 20 and 35 of the multikernel tree",
)
@pytest.mark.needs("halt", "force")
def test_ten_times(pair: Pair, live: Interface, seen: Seen) -> None:
    ids = set()
    for number in range(10):
        ids.add(str(inside(pair)))
        (live.halt if number % 2 else live.force)(pair.instance.id).require()
        boot_again(pair)
    seen(f"ten times on vCPUs {', '.join(ids)}")
    assert ids == {str(pair.instance.apic_ids)}
    kernel = Kernel(pair.spawned.name, pair.spawned.console, pair.spawned.channel, pair.spawned.factor)
    assert kernel.run("echo alive") == "alive"


@claim(
    "a removed instance gives everything back: CPUs, memory, names",
    source="interface sheet RC-P3, RC-P4",
)
@pytest.mark.needs("halt", "remove")
def test_everything_back(lab: Lab, mk: Interface, alpha: SpawnedKernel, seen: Seen) -> None:
    before = census.take(lab.host)
    pair = lab.pair()
    granted = pair.instance.spawned
    mk.halt(granted.id).require()
    mk.remove(granted.name).require()
    lost = census.take(lab.host).lost_since(before)
    seen("; ".join(lost) or f"{', '.join(before.lists)} as before")
    assert not lost, "\n".join(lost)
    for cpu in granted.cpus:
        assert lab.host.run(f"taskset -c {cpu} echo runs") == "runs", f"nothing runs on CPU {cpu}"


@claim(
    "the memory of a removed instance holds nothing of it (seen from outside)",
    source="interface sheet ME-P5; known bug V2-14: not scrubbed",
)
@pytest.mark.needs("halt", "remove")
def test_scrubbed(pair: Pair, live: Interface, seen: Seen) -> None:
    region = pair.instance.ram
    live.halt(pair.instance.id).require()
    live.remove(pair.spawned.name).require()
    ram = ram_of(pair.lab.machine)
    left = filled(ram, pages_in(ram.touched(), [region]))
    seen(f"{len(left)} pages of {region.size >> 20} MiB are not zero")
    assert not len(left), f"not cleared: {', '.join(map(str, regions_of(left)[:8]))}"
