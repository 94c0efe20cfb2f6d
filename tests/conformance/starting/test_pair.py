# SPDX-License-Identifier: MIT
"""A second kernel runs beside the first: the claims that `make demo` shows.

Each test has a machine of its own with a host kernel and one spawned kernel, forked from one that
was brought there once. Only in the demo one machine serves them all; so nothing here disturbs it.
"""

import re
import secrets

import pytest

from harness.lab import Pair
from harness.model import common, merged, without
from harness.multikernel import messaging
from harness.oracle.processors import processors
from harness.plugin import Seen, claim

LONGEST_GAP_MS = 5000
"""A CPU of the host that has not run for so long has stopped. Before scaling by the accelerator, as a stage
may have been made on a busy computer, and its gaps count in each fork."""

pytestmark = pytest.mark.needs("spawn")


@claim(
    "the second kernel prints its own banner", source="RFC v1 0/7: several kernel instances on one machine"
)
def test_banner(pair: Pair, seen: Seen) -> None:
    banner = re.search(r"Linux version (\S+)", pair.spawned.console.text)
    assert banner, "no 'Linux version' line on the spawned kernel's own serial line"
    release = banner[1]
    host = pair.host.read("/proc/sys/kernel/osrelease").strip()
    seen(f"Linux {release}" + (f", beside the host's {host}" if host != release else ""))
    wanted = pair.lab.build.spawned_version
    assert release == wanted, f"the banner is of another build than {wanted}"
    assert host == pair.lab.build.version, f"the host is of another build than {pair.lab.build.version}"


@claim(
    "the second kernel reaches its own user space",
    source="RFC v1 0/7: several kernel instances on one machine",
)
def test_user_space(pair: Pair, seen: Seen) -> None:
    cmdline = pair.spawned.read("/proc/cmdline").strip()
    seen(f"it runs commands, booted with {len(cmdline.split())} arguments")
    assert set(pair.arguments) <= set(cmdline.split()), f"its /proc/cmdline is not what was loaded: {cmdline}"
    host, spawned = (kernel.read("/proc/sys/kernel/random/boot_id") for kernel in (pair.host, pair.spawned))
    assert host != spawned, "both kernels have one boot id: they are the same kernel"


@claim("the second kernel has exactly the granted CPUs", source="RFC v2 0/16: each instance has its own CPUs")
def test_granted_cpus(pair: Pair, seen: Seen) -> None:
    host, spawned = pair.host.apic_ids(), pair.spawned.apic_ids()
    seen(f"APIC ids: spawned {spawned}, host {host}")
    assert spawned == pair.instance.apic_ids, f"granted were the CPUs with APIC ids {pair.instance.apic_ids}"
    assert not set(host) & set(spawned), "a CPU is online in both kernels"


@claim(
    "the granted CPUs execute the second kernel and no others do (seen from outside)",
    source="RFC v2 0/16: each instance has its own CPUs",
)
def test_who_runs_where(pair: Pair, seen: Seen) -> None:
    running = processors(pair.lab.machine)
    inside = tuple(p.index for p in running if pair.instance.ram.start <= p.cr3 < pair.instance.ram.end)
    seen(f"page tables in {pair.instance.ram}: vCPUs {inside}")
    assert inside == pair.instance.apic_ids, "\n".join(map(str, running))


@claim(
    "the second kernel's System RAM is exactly the granted memory",
    source="RFC v2 0/16: each instance has its own memory",
)
def test_granted_memory(pair: Pair, seen: Seen) -> None:
    ram = pair.spawned.system_ram()
    fixed = common(ram, (area.region for area in pair.instance.fixed))
    listed = "".join(f", fixed {region}" for region in fixed)
    seen(f"{', '.join(map(str, without(ram, fixed)))}{listed}")
    assert without(ram, fixed) == merged([pair.instance.ram]), (
        f"granted was {pair.instance.ram}; fixed areas: {pair.instance.fixed}"
    )


@claim(
    "the two kernels' RAM does not overlap", source="RFC v1 0/7: memory is partitioned between the kernels"
)
def test_no_overlap(pair: Pair, seen: Seen) -> None:
    shared = common(pair.host.system_ram(), pair.spawned.system_ram())
    agreed = common(shared, (area.region for area in pair.instance.fixed))
    seen("in common: " + (", ".join(f"{region} (fixed)" for region in agreed) or "nothing"))
    assert without(shared, agreed) == (), f"both kernels use this memory as RAM: {without(shared, agreed)}"


@claim(
    "the host lists the second kernel's image", source="RFC v1 7/7 and v2 10/16: /proc file of loaded images"
)
@pytest.mark.needs("kimage")
def test_kimage(pair: Pair, seen: Seen) -> None:
    listing = pair.host.read(pair.lab.dialect.kimage)
    rows = [line for line in listing.splitlines() if "multikernel" in line.split()]
    seen(" ".join(rows[0].split()) if rows else "no row")
    assert len(rows) == 1, (
        f"one image of type multikernel is loaded, {pair.lab.dialect.kimage} says:\n{listing}"
    )


@claim(
    "a message from the host arrives in the second kernel",
    source="RFC v1 0/7: kernels communicate by IPI messages",
)
@pytest.mark.needs("messages")
def test_message_to_spawned(pair: Pair, seen: Seen) -> None:
    payload = secrets.token_bytes(32)
    messaging.send(pair.host, pair.lab.dialect.to_spawned(pair.instance), payload)
    message = messaging.wait_for(pair.spawned, payload)
    seen(f"{len(payload)} random bytes, type {message.type:#x}, sender {message.sender}")
    assert message.type == messaging.USER


@claim(
    "a message from the second kernel arrives in the host",
    source="RFC v1 0/7: kernels communicate by IPI messages",
)
@pytest.mark.needs("messages")
def test_message_to_host(pair: Pair, seen: Seen) -> None:
    payload = secrets.token_bytes(32)
    messaging.send(pair.spawned, pair.lab.dialect.to_host, payload)
    message = messaging.wait_for(pair.host, payload)
    seen(f"{len(payload)} random bytes, type {message.type:#x}, sender {message.sender}")
    assert message.type == messaging.USER


@claim("the host's heartbeat never stopped", source="RFC v1 0/7: fault isolation between kernels")
def test_heartbeat(pair: Pair, seen: Seen) -> None:
    now = pair.host.heartbeat()
    beats = sum(beat.beats for beat in now.cpus.values())
    seen(f"{beats} beats on CPUs {tuple(now.cpus)}, longest gap {now.longest_gap_ms:.0f} ms")
    remaining = pair.before_spawn.cpus.keys() - set(pair.instance.spawned.cpus)
    assert now.cpus.keys() == remaining, f"CPUs with a heartbeat should be {sorted(remaining)}"
    assert now.stopped_since(pair.before_spawn) == [], "these CPUs have not run since the spawn began"
    limit = LONGEST_GAP_MS * pair.host.factor
    assert now.longest_gap_ms < limit, f"a CPU stood still for more than {limit:.0f} ms"
