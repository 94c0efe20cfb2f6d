# SPDX-License-Identifier: MIT
"""The kernels keep to their own memory and CPUs, seen from outside: page tables, written pages, CR3.

After every test of the suite this is looked at as well; here the kernels are made to do what might
make them stray.
"""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from harness.lab import Lab, Pair
from harness.model import Finding
from harness.multikernel.interface import Interface
from harness.multikernel.kernel import Kernel
from harness.multikernel.payload import Payload
from harness.partition import Partition, trespasses
from harness.plugin import Seen, claim
from harness.vm.ram import ram_of

pytestmark = pytest.mark.needs("spawn")

WORK = (
    "for i in 1 2 3 4 5 6; do head -c 4000000 /dev/urandom >/tmp/w$i; sh -c 'md5sum /tmp/w*' >/dev/null; done"
)
"""Processes that come and go, files, and pages that are written."""
CYCLES = 8


def told(findings: tuple[Finding, ...]) -> str:
    return "\n".join(map(str, findings))


def work(kernel: Kernel) -> None:
    kernel.run(WORK, timeout=60)


@claim(
    "no kernel's page tables map memory of another's, whatever process runs",
    source="RFC v1 0/7: memory is partitioned between the kernels",
)
def test_page_tables(pair: Pair, seen: Seen) -> None:
    partition = Partition(pair.lab)
    roots: set[tuple[str, int]] = set()
    mapped: dict[str, int] = {}
    with ThreadPoolExecutor(2) as pool:
        jobs = [pool.submit(work, kernel) for kernel in (pair.host, pair.spawned)]
        while not all(job.done() for job in jobs) or len(roots) < 2:
            with partition.look() as look:
                assert look is not None, "the machine has ended"
                for tables in look.tables:
                    roots.add((tables.owner.name, tables.registers["CR3"]))
                    mapped[tables.owner.name] = tables.leaves.mapped
                findings = {
                    f"{tables.owner.name} maps {mapping}"
                    for tables in look.tables
                    for mapping in trespasses(look, tables)
                }
            time.sleep(0.05)
            assert not findings, "\n".join(sorted(findings))
        for job in jobs:
            job.result()
    fixed = ", ".join(f"{area.region.size >> 10} KiB at {area.region.start:#x}" for area in look.layout.fixed)
    sizes = ", ".join(f"{name} {size >> 20} MiB" for name, size in mapped.items())
    seen(f"{len(roots)} address spaces; mapped: {sizes}; agreed on beforehand: {fixed}")


@claim(
    "both kernels at work write to no page of nobody's, to none of their canaries and constants",
    source="RFC v1 0/7: memory is partitioned between the kernels",
)
def test_strays_under_load(pair: Pair, seen: Seen) -> None:
    partition = Partition(pair.lab)
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(work, (pair.host, pair.spawned)))
    findings = partition.findings(reach=False)
    written = len(ram_of(pair.lab.machine).written())
    canaries = {name: len(pages) for name, pages in pair.lab.canaries.items()}
    seen(f"{written} pages written, none of them astray; canaries: {canaries}")
    assert not findings, told(findings)
    assert written > 1000, "hardly anything was written: this shows nothing"


@claim(
    "a panic in a spawned kernel writes to nothing but its own memory",
    source="reviewers of RFC v1: what prevents kernel A from touching kernel B's memory",
)
def test_strays_of_a_panic(pair: Pair, seen: Seen) -> None:
    partition = Partition(pair.lab)
    with pair.spawned.console.expected("panic|sysrq|crash|NULL|BUG|Oops"):
        pair.spawned.console.send("echo c >/proc/sysrq-trigger\n")
        pair.spawned.console.expect("Kernel panic")
        time.sleep(0.5 * pair.lab.accel.factor)
        assert pair.host.run("echo alive") == "alive"
    findings = partition.findings(reach=False)
    seen(f"{len(pair.lab.canaries['host'])} canaries of the host's are as they were")
    assert not findings, told(findings)


@claim(
    "loading, starting and stopping kernels again and again leaves no page of theirs mapped by the host",
    source="kernels/reference/README.md: memory is cleared and goes back to the pool",
)
@pytest.mark.needs("force", "apart")
def test_nothing_stays_mapped(payload: Payload, mk: Interface, lab: Lab, seen: Seen) -> None:
    partition = Partition(lab)
    for _ in range(CYCLES):
        mk.force(payload.instance.id).require()
        payload.load()
        payload.start()
    findings = partition.findings()
    assert not findings, told(findings)
    mk.force(payload.instance.id).require()
    mk.remove(payload.instance.name).require()
    findings = partition.findings()
    seen(f"{CYCLES} cycles; afterwards {lab.topology.pool.region} is in no page table of the host's")
    assert not findings, told(findings)
