# SPDX-License-Identifier: MIT
"""The pool's boot parameter with values that are no good: the host boots, says why, and loses no memory."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache

import pytest

from harness.build import Build
from harness.definition import Topology, load_topology
from harness.lab import BOOT_TIMEOUT, machine_spec
from harness.model import Region, common, without
from harness.multikernel.dialect import pool_arguments
from harness.multikernel.kernel import POOL, Resource, parse_iomem
from harness.plugin import Seen, claim, counted
from harness.vm.accel import choose
from harness.vm.console import printed
from harness.vm.machine import Machine

pytestmark = pytest.mark.needs("spawn", "instances")

SLACK = 2 << 20
"""Bytes by which the host's MemTotal differs from boot to boot, at most."""
PAGE_STRUCTS = 1 / 64
"""Share of its memory in which the host describes it: 64 bytes for a page."""
MIB = 1 << 20
VALUES = {
    "size 0": "0@0x40000000",
    "a negative size": "-512M@0x40000000",
    "up to the end of addresses and beyond": "0xffffffffe0000000@0x40000000",
    "a terabyte": "1T@0x40000000",
    "over the end of memory": "512M@0x70000000",
    "over the initrd": "{initrd}",
    "an address a page too high": "512M@0x40001000",
    "something behind the address": "512M@0x40000000,1",
    "given twice": "512M@0x20000000 mkkernel_pool=512M@0x40000000",
    "beyond mem=": "512M@0x40000000 mem=1G",
}


@dataclass(frozen=True)
class Booted:
    """What a host that was booted with some arguments tells: its memory in bytes, its map, its log."""

    total: int
    iomem: tuple[Resource, ...]
    log: str
    complaints: tuple[str, ...]

    @property
    def pool(self) -> Region | None:
        """The pool as /proc/iomem lists it."""
        return next((line.region for line in self.iomem if line.name == POOL), None)


Boot = Callable[[str], Booted]


@pytest.fixture(scope="module")
def boot(build: Build, pytestconfig: pytest.Config) -> Boot:
    """Boot a host with other arguments in place of the pool's; what was asked before is not booted again."""
    topology = load_topology(build.definition.topology)
    # One CPU will do, and boots in two thirds of the time.
    spec = replace(machine_spec(build, topology), vcpus=1)
    accel = choose(pytestconfig.getoption("--accel"))

    @cache
    def run(arguments: str) -> Booted:
        cmdline, found = re.subn(r"\bmkkernel_pool=\S+", arguments, spec.cmdline)
        assert found == 1, f"the host's command line has no mkkernel_pool=: {spec.cmdline}"
        with Machine(replace(spec, cmdline=cmdline), accel) as machine, counted(pytestconfig, build, machine):
            console, channel = machine.console("host"), machine.channel("host")
            console.expect(printed("mkh: user space is up on host"), timeout=BOOT_TIMEOUT)
            channel.wait_ready(timeout=BOOT_TIMEOUT)
            told = channel.run("grep MemTotal /proc/meminfo; cat /proc/iomem; echo =; dmesg").check().text
            lines, _, log = told.partition("\n=\n")
            total, _, iomem = lines.partition("\n")
            splats = tuple(splat.line for splat in console.splats())
            return Booted(int(total.split()[1]) << 10, parse_iomem(iomem), log, splats)

    return run


def size_of(text: str) -> int:
    """Return what a number with a suffix means, however large."""
    digits, suffix = re.fullmatch(r"(-?\w+?)([KMGT]?)", text).groups()  # type: ignore[union-attr]
    return int(digits, 0) << {"": 0, "K": 10, "M": 20, "G": 30, "T": 40}[suffix]


def ram_of(booted: Booted) -> list[Region]:
    return [line.region for line in booted.iomem if line.name == "System RAM"]


def require_cost(booted: Booted, control: Booted) -> None:
    """Require that a host has less memory than ``control`` by what its pool takes of it, and no more."""
    taken = common(ram_of(control), [booted.pool] if booted.pool else [])
    size = sum(region.size for region in taken)
    less = control.total - booted.total
    # What describes the pool's pages may be saved with them.
    assert size * (1 - 1.1 * PAGE_STRUCTS) - SLACK <= less <= size + SLACK, (
        f"the pool takes {size >> 10} KiB, and the host has {less >> 10} KiB less than without"
    )


def explanation(log: str) -> list[str]:
    """Return what the kernel says of its pool, the command line left out."""
    lines = [line.partition("] ")[2] for line in log.splitlines()]
    return [line for line in lines if re.search("pool", line, re.I) and "no_timer_check" not in line]


@claim(
    "the host's memory is smaller by the pool, and by no more",
    source="RFC v2 06/16: mkkernel_pool= sets memory aside; interface sheet ME-P1",
)
def test_costs_the_pool(boot: Boot, topology: Topology, seen: Seen) -> None:
    (argument,) = pool_arguments(topology)
    control, booted = boot(""), boot(argument)
    seen(f"MemTotal {control.total >> 10} KiB without, {booted.total >> 10} KiB with {booted.pool}")
    assert control.pool is None
    assert booted.pool == topology.pool.region
    require_cost(booted, control)


@claim(
    "a pool that cannot be as it is asked for is none: the host boots, says why, and loses no memory",
    source="interface sheet ME-N1; kernels/reference/README.md: else there is no pool and the log says why",
)
@pytest.mark.parametrize("what", VALUES)
def test_bad_value(boot: Boot, seen: Seen, what: str) -> None:
    control = boot("mem=1G" if "mem=" in VALUES[what] else "")
    value = VALUES[what].format(initrd=f"16M@{initrd_of(control) // (2 * MIB) * 2 - 8}M")
    booted = boot(f"mkkernel_pool={value}")
    said, pool = explanation(booted.log), booted.pool
    seen(f"{value}: {pool or 'no pool'}; {said[0] if said else 'the log says nothing'}")
    assert not booted.complaints, "\n".join(booted.complaints)
    require_cost(booted, control)
    if pool is None:
        assert said, "there is no pool, and the log does not say why"
        return
    asked = [re.split("[@ ,]", one)[:2] for one in value.split("mkkernel_pool=")]
    assert [pool.start, pool.size] in [[size_of(at), size_of(size)] for size, at in asked], (
        f"the pool is at {pool}, which nobody asked for:\n" + "\n".join(said)
    )
    others = [line for line in control.iomem if pool.overlaps(line.region) and line.depth]
    # Memory that the host was told to leave alone is good for a pool.
    outside = without([pool], ram_of(boot("")))
    assert not outside, f"this part of the pool at {pool} is no RAM: {', '.join(map(str, outside))}"
    assert not others, f"{pool} is a pool, and in use: {others}"
    assert not pool.overlaps(Region(initrd_of(control), 1)), f"{pool} is a pool, and has the initrd in it"


def initrd_of(booted: Booted) -> int:
    """Return the address where the boot loader put the initrd."""
    found = re.search(r"RAMDISK: \[mem (0x[0-9a-f]+)-", booted.log)
    assert found, "the log does not say where the initrd is"
    return int(found[1], 16)
