# SPDX-License-Identifier: MIT
"""What QEMU's log of register writes and the writes to local APICs mean."""

from __future__ import annotations

import pytest

from harness.errors import HarnessError
from harness.vm.lapic import ICR_HIGH, ICR_LOW, Ipi, ipis
from harness.vm.trace import Write, parse

# As Debian's QEMU 7.2 writes it.
LOG = b"""\
memory_region_ops_write cpu 2 mr 0x5583014365e0 addr 0xfee00310 value 0x3000000 size 4 name 'apic-msi'
qemu: something else
memory_region_ops_write cpu -1 mr 0x5583014365e0 addr 0xfee02000 value 0x23 size 4 name 'apic-msi'
memory_region_ops_write cpu 0 mr 0x55830143 addr 0x3e8 value 0x41 size 1 name 'serial'
memory_region_ops_write cpu 1 mr 0x55830143 addr 0x3"""
IDS = (0, 1, 2, 3)
SERIAL = 0x3E8


def sent(vcpu: int, low: int, destination: int | None = None) -> list[Write]:
    low_half = Write(vcpu, ICR_LOW, low, 4, "apic-msi")
    if destination is None:
        return [low_half]
    return [Write(vcpu, ICR_HIGH, destination << 24, 4, "apic-msi"), low_half]


def test_a_log() -> None:
    assert parse(LOG) == [
        Write(2, 0xFEE00310, 0x3000000, 4, "apic-msi"),
        Write(None, 0xFEE02000, 0x23, 4, "apic-msi"),
        Write(0, 0x3E8, 0x41, 1, "serial"),
    ]


def test_halves_of_two_vcpus_mixed() -> None:
    (a_high, a_low), (b_high, b_low) = sent(0, 0xEA, 3), sent(1, 0xFB, 2)
    assert ipis([a_high, b_high, a_low, b_low]) == [
        Ipi(0, 3, "", 0xEA, "fixed"),
        Ipi(1, 2, "", 0xFB, "fixed"),
    ]


def test_what_qemu_does_itself_is_no_ipi() -> None:
    assert ipis([Write(None, ICR_LOW, 0xEA, 4, "apic-msi")]) == []


@pytest.mark.parametrize(
    ("low", "destination", "targets"),
    [
        (0xEA, 3, {3}),
        (0xEA, 7, set()),
        (0xEA, 0xFF, {0, 1, 2, 3}),
        (0x400EA, None, {1}),
        (0x800F8, 3, {0, 1, 2, 3}),
        # What a host that reboots sends to everyone but itself. Source: design.md, real series.
        (0xC00F8, 3, {0, 2, 3}),
    ],
)
def test_whom_an_ipi_reaches(low: int, destination: int | None, targets: set[int]) -> None:
    (ipi,) = ipis(sent(1, low, destination))
    assert ipi.targets(IDS) == targets


def test_what_was_under_way_when_the_stretch_began_is_left_out() -> None:
    assert ipis([*sent(1, 0xFB), *sent(2, 0xFC, 3), *sent(1, 0xFC, 0)]) == [
        Ipi(2, 3, "", 0xFC, "fixed"),
        Ipi(1, 0, "", 0xFC, "fixed"),
    ]


@pytest.mark.parametrize("before", [*sent(1, 0xFB), Write(1, SERIAL, 0x41, 1, "serial")])
def test_a_destination_that_was_never_named_may_be_anyone(before: Write) -> None:
    (ipi,) = ipis([before, *sent(1, 0xEA)])
    assert ipi.targets(IDS) == {0, 1, 2, 3}


def test_delivery_modes() -> None:
    found = ipis([*sent(0, 0x4400, 1), *sent(0, 0xC500, 1), *sent(0, 0x469A, 1)])
    assert [(ipi.delivery, ipi.vector) for ipi in found] == [("nmi", 0), ("init", 0), ("startup", 0x9A)]


def test_a_logical_destination_is_not_guessed() -> None:
    (ipi,) = ipis(sent(0, 0x8EA, 1))
    with pytest.raises(HarnessError, match="is logical"):
        ipi.targets(IDS)
