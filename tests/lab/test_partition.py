# SPDX-License-Identifier: MIT
"""The oracles that look after every test find what they are for: each thing is really done once."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import msgspec
import numpy as np
import pytest

from harness.forks import Forks
from harness.lab import Lab, Pair
from harness.model import Finding, Region
from harness.oracle.pagetables import Leaves, levels_of, walk
from harness.oracle.processors import processor_of
from harness.partition import Partition
from harness.progress import Progress
from harness.vm.ram import Ram, ram_of
from harness.vm.ram_pages import PAGE
from harness.vm.registers import registers_of

pytestmark = [pytest.mark.needs("spawn", "apart"), pytest.mark.trespass("it is what these tests are about")]


@pytest.fixture
def partition(pair: Pair) -> Partition:
    return Partition(pair.lab)


@pytest.fixture
def ram(pair: Pair) -> Ram:
    return ram_of(pair.lab.machine)


def only(partition: Partition) -> Finding:
    findings = partition.findings()
    assert len(findings) == 1, "\n".join(map(str, findings))
    return findings[0]


def leaves_of(lab: Lab, ram: Ram, vcpu: int) -> tuple[int, Leaves]:
    registers = registers_of(lab.machine.qmp)[vcpu]
    root = processor_of(registers).cr3
    return root, walk(ram, root, levels_of(registers))


def test_nothing(partition: Partition, pair: Pair) -> None:
    pair.host.run("dd if=/dev/zero of=/tmp/file bs=1M count=32")
    pair.spawned.run("dd if=/dev/zero of=/tmp/file bs=1M count=32", timeout=30)
    assert partition.findings() == ()


def test_written_where_nobody_is(partition: Partition, pair: Pair, ram: Ram) -> None:
    place = pair.lab.topology.pool.region.end - PAGE
    ram.write(place + 16, b"stray")
    finding = only(partition)
    assert f"1 pages were written that belong to nobody: {Region(place, PAGE)}" in finding.what
    assert b"stray".hex(" ") in str(finding)


def test_cleared_is_not_written(partition: Partition, pair: Pair, ram: Ram) -> None:
    ram.write(pair.lab.topology.pool.region.end - PAGE, bytes(PAGE))
    assert partition.findings() == ()


@pytest.mark.parametrize("kernel", ["host", "alpha"])
def test_canary(partition: Partition, pair: Pair, ram: Ram, kernel: str) -> None:
    canaries = pair.lab.canaries[kernel]
    assert len(canaries) >= 512
    ram.write(int(canaries[5]) * PAGE + 100, b"stray")
    finding = only(partition)
    assert f"1 of {len(canaries)} pages of {kernel}'s canaries were written" in finding.what
    assert "was a5 a5 a5 a5 a5" in str(finding)


@pytest.mark.parametrize(("kernel", "vcpu"), [("host", 0), ("alpha", 3)])
def test_constants(partition: Partition, pair: Pair, ram: Ram, kernel: str, vcpu: int) -> None:
    from harness.klog.symbols import Symbols

    banner = Symbols(pair.lab.build.vmlinux).address("linux_banner")
    assert banner
    physical = leaves_of(pair.lab, ram, vcpu)[1].translate(banner)
    assert physical
    assert ram.read(physical, 14) == b"Linux version "
    ram.write(physical, b"linux version ")
    assert f"pages of {kernel}'s constants (.rodata) were written" in only(partition).what


@pytest.mark.parametrize(("kernel", "other", "vcpu"), [("host", "alpha", 0), ("alpha", "host", 3)])
def test_reach(partition: Partition, pair: Pair, ram: Ram, kernel: str, other: str, vcpu: int) -> None:
    """An entry of a page table that has room gets to point to a page of the other kernel's."""
    own = pair.instance.ram if kernel == "alpha" else None
    target = int(pair.lab.canaries[other][0]) * PAGE
    pair.lab.machine.freeze()
    root, _ = leaves_of(pair.lab, ram, vcpu)
    place, virtual = free_entry(ram, root)
    assert own is None or own.contains(Region(place, 8))
    ram.write(place, np.array([target | 0x163], np.uint64))
    pair.lab.machine.thaw()
    finding = only(partition)
    assert f"{kernel} maps 4 KiB that are not its own" in finding.what, finding
    assert f"{virtual:#018x} rwx -> {Region(target, PAGE)}, memory of {other}" in str(finding)


def test_reach_of_what_the_kernel_mapped(partition: Partition, monkeypatch: pytest.MonkeyPatch) -> None:
    """The finding names who mapped it and what for: here the rings, once they are not agreed on any more."""
    monkeypatch.setattr("harness.multikernel.layout.AREAS", {})
    findings = {finding.what: str(finding) for finding in partition.findings(strays=False)}
    assert len(findings) == 2, findings
    assert {what.partition(" ")[0] for what in findings} == {"host", "alpha"}
    for text in findings.values():
        assert "mapped in vmalloc by memremap" in text
        assert "for mk_shared+0x0" in text


def free_entry(ram: Ram, root: int) -> tuple[int, int]:
    """Return where a free entry of a lowest table of vmalloc memory is, and which address it maps."""
    table, virtual = root, 0xFFFF_C900_0000_0000
    for shift in (39, 30, 21):
        index = virtual >> shift & 511
        entry = int.from_bytes(ram.read(table + 8 * index, 8), "little")
        assert entry & 1
        assert not entry & 0x80
        table = entry & 0x000F_FFFF_FFFF_F000
    entries = ram.array(table, PAGE).view(np.uint64)
    free = int(np.flatnonzero(entries == 0)[-1])
    return table + 8 * free, virtual & ~((1 << 21) - 1) | free << 12


def test_who_runs_where(partition: Partition, pair: Pair) -> None:
    granted = pair.lab.granted
    granted[:] = [replace(granted[0], apic_ids=(2,))]
    assert "vCPU 3 (APIC id 3) runs alpha, which has APIC ids 2" in only(partition).what


@pytest.fixture(params=["4 levels", "5 levels, pages of 1 GiB"])
def other_cpu(request: pytest.FixtureRequest, forks: Forks) -> Iterator[Lab]:
    """Two live kernels on another kind of CPU."""
    cpu = "qemu64,+la57,+pdpe1gb" if request.param.startswith("5") else "qemu64"
    topology = msgspec.structs.replace(forks.topology, cpu=cpu)
    with Lab(forks.build, topology, forks.accel, Progress()) as lab:
        lab.pair()
        yield lab


def test_page_tables_of_all_kinds(other_cpu: Lab) -> None:
    """What the walk finds is what the kernels say: all of System RAM is in their direct maps, no more."""
    lab = other_cpu
    pair, ram = lab.pair(), ram_of(lab.machine)
    assert Partition(lab).findings() == ()
    levels = levels_of(registers_of(lab.machine.qmp)[0])
    assert levels == (5 if "la57" in lab.topology.cpu else 4)
    for kernel, vcpu in ((pair.host, 0), (pair.spawned, 3)):
        _, leaves = leaves_of(lab, ram, vcpu)
        start = 0xFF11_0000_0000_0000 if levels == 5 else 0xFFFF_8880_0000_0000
        for region in kernel.system_ram():
            for address in (region.start, region.end - 1):
                assert leaves.translate(start + address) == address
        assert leaves.translate(start + (1 << 40)) is None
        assert not leaves.outside
