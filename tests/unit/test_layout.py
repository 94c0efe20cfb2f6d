# SPDX-License-Identifier: MIT
"""Who claims what of a machine's memory, from what hosts list and the harness granted; and its map."""

import pytest

from harness.definition import SpawnedKernel, load_topology
from harness.model import Layout, Region
from harness.multikernel.dialect import LOW
from harness.multikernel.instance import Instance
from harness.multikernel.kernel import parse_iomem
from harness.multikernel.layout import FIRST_MIB, claimed_layout
from harness.multikernel.v1 import SHARED
from harness.oracle.processors import Processor, strangers
from harness.partition import FIXED, FREE, Part, claims_of
from harness.report.memorymap import text_of

MIB = 1 << 20
RAM = (Region(0, 2048 * MIB),)
POOL = Region(1024 * MIB, 512 * MIB)
ALPHA = Instance(SpawnedKernel("alpha", 1, (3,), 256 * MIB), (3,), Region(1026 * MIB, 256 * MIB))
IOMEM = """\
00001000-0009fbff : System RAM
00100000-3fffffff : System RAM
40000000-5fffffff : Multikernel Memory Pool
  40000000-40100fff : mk-shared
  40200000-501fffff : mk-instance-1-alpha-region-0
  50200000-511fffff : mk-instance-7-bravo-region-0
60000000-7ffdffff : System RAM
"""


def layout(iomem: str = IOMEM, granted: tuple[Instance, ...] = (ALPHA,)) -> Layout:
    return claimed_layout(RAM, POOL, parse_iomem(iomem), granted)


def test_owners() -> None:
    host, alpha, bravo = layout().owners
    assert (host.name, host.memory) == ("host", (Region(0, 1024 * MIB), Region(1536 * MIB, 512 * MIB)))
    assert (alpha.memory, alpha.apic_ids) == ((ALPHA.ram,), frozenset({3}))
    assert (bravo.memory, bravo.apic_ids) == ((Region(1282 * MIB, 16 * MIB),), frozenset())


def test_a_removed_instance_stays_known_that_the_harness_granted() -> None:
    assert [owner.name for owner in layout("60000000-7ffdffff : System RAM\n").owners] == ["host", "alpha"]


def test_free() -> None:
    assert layout().free(RAM) == (
        Region.from_bounds(0x40101000, 0x401FFFFF),
        Region.from_bounds(0x51200000, 0x5FFFFFFF),
    )


def test_foreign() -> None:
    made = layout()
    assert made.foreign("host", RAM) == (Region.from_bounds(0x40101000, 0x5FFFFFFF),)
    assert made.foreign("alpha", RAM) == (
        Region.from_bounds(0x100000, 0x3FFFFFFF),
        Region.from_bounds(0x40101000, 0x401FFFFF),
        Region.from_bounds(0x50200000, 0x7FFFFFFF),
    )


def test_fixed_areas_of_an_instance_are_agreed_on_once() -> None:
    instance = Instance(ALPHA.spawned, (3,), ALPHA.ram, (SHARED,))
    assert layout(granted=(instance, instance)).fixed == (
        FIRST_MIB,
        SHARED,
        layout().fixed[1],
    )


def test_strangers() -> None:
    def found(vcpu: int, cr3: int) -> list[str]:
        running = [Processor(vcpu, 0xFFFFFFFF81000000, cr3, False)]
        return [finding.what for finding in strangers(running, layout(), lambda index: index)]

    assert found(0, 0x200000) == found(3, 0x200000) == [], (
        "the host may run its own CPUs, and wait on granted"
    )
    assert found(3, 0x40300000) == []
    assert found(2, 0x40300000) == ["vCPU 2 (APIC id 2) runs alpha, which has APIC ids 3"]
    assert found(2, 0x50300000) == [], "nobody knows which CPUs bravo has"
    assert found(1, 0x5F000000) == ["vCPU 1 runs on page tables at 0x5f000000, in memory of nobody"]
    assert found(1, 0x9000) == [], "a CPU that is being started"


def test_apic_ids_of_sockets() -> None:
    assert [load_topology("sparse").apic_id(vcpu) for vcpu in range(6)] == [0, 1, 2, 4, 5, 6]
    assert load_topology("pair").apic_id(3) == 3


def test_agreed_areas_inside_each_other_are_on_the_map_once() -> None:
    instance = Instance(ALPHA.spawned, (3,), ALPHA.ram, (LOW, SHARED))
    claims = claims_of(layout(granted=(instance,)), RAM)
    assert sum(region.size for region, _, _ in claims) == 2048 * MIB


def test_map() -> None:
    claims = claims_of(layout(), RAM)
    assert sum(region.size for region, _, _ in claims) == 2048 * MIB, "everything is on the map, once"
    assert [claim for _, claim, _ in claims] == [
        FIXED, "host", FIXED, FREE, "alpha", "bravo", FREE, "host",
    ]  # fmt: skip
    parts = [Part(region, claim, why, 0, {"host": region.size}) for region, claim, why in claims]
    strip, *table = text_of(parts).splitlines()
    assert strip.startswith("=hhhh")
    assert "=.aaaa" in strip
    assert "ab." in strip
    assert any("b bravo" in line and "16,384" in line for line in table)


@pytest.mark.parametrize("width", [60, 72, 80, 81, 90, 100, 110, 120, 200])
@pytest.mark.parametrize("kernels", [["host"], ["host", "alpha"], ["host", "alpha", "bravo", "charlie"]])
def test_map_fits_any_terminal_and_cuts_nothing(width: int, kernels: list[str]) -> None:
    most = 1040 * MIB
    parts = [
        Part(region, claim, why, 12_345, dict.fromkeys(kernels, most))
        for region, claim, why in claims_of(layout(), RAM)
    ]
    text = text_of(parts, width)
    assert max(map(len, text.splitlines())) <= width
    assert "\u2026" not in text
    for part in parts:
        row = next(line for line in text.splitlines()[1:] if str(part.region) in line)
        assert f"{part.region.size >> 10:,}" in row
        assert "12,345" in row
        assert row.count(f"{most >> 10:,}") == (0 if "more columns" in text else len(kernels))
    assert ("more columns" in text) == (width < 60 + 10 * len(kernels))
