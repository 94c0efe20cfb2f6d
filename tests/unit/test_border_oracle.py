# SPDX-License-Identifier: MIT
"""Interrupts that cross a border, and devices of others, from writes made up here."""

from __future__ import annotations

import pytest

from harness.border import LENT, MESSAGE, agreed
from harness.multikernel.layout import HOST
from harness.oracle import devices, interrupts
from harness.oracle.interrupts import crossings, kernels_of
from harness.vm.lapic import ICR_HIGH, ICR_LOW, LDR
from harness.vm.trace import Write

IDS = (0, 1, 2, 3)
KERNELS = kernels_of(IDS, {"alpha": [3]}, HOST)
LINES = {"host": 0x3E8, "alpha": 0x3F8, "alpha.agent": 0x2F8, "bravo": 0}


def sent(vcpu: int, command: int, destination: int = 0) -> list[Write]:
    return [
        Write(vcpu, ICR_HIGH, destination << 24, 4, "apic-msi"),
        Write(vcpu, ICR_LOW, command, 4, "apic-msi"),
    ]


def message(vcpu: int | None, apic: int, data: int) -> Write:
    return Write(vcpu, 0xFEE00000 | apic << 12, data, 4, "apic-msi")


def found(writes: list[Write], during: tuple[str, ...] = ()) -> list[str]:
    crossed = crossings(writes, IDS, KERNELS, HOST, (0, 0, 0, 0))
    steps = agreed("reference", during)  # type: ignore[arg-type]
    return [finding.what for finding in interrupts.foreign(crossed, steps)]


def touched(*writes: Write, lent: tuple[str, ...] = ()) -> list[str]:
    return [f.what for f in devices.foreign(devices.touches(writes, KERNELS, LINES, HOST), lent)]


def test_cpus_that_nobody_has_are_the_hosts() -> None:
    assert kernels_of((0, 2, 4, 6), {"alpha": [4]}, HOST) == (HOST, HOST, "alpha", HOST)


def test_what_stays_inside_does_not_cross() -> None:
    assert crossings([*sent(0, 0xFB, 2), *sent(3, 0x400EC), message(None, 1, 0x20)], IDS, KERNELS, HOST) == []


@pytest.mark.parametrize(
    ("command", "what"),
    [
        (0xFD, "alpha sent host IPI, vector 0xfd, 1 times"),
        (0x400, "alpha sent host IPI, NMI, 1 times"),
        (0x4500, "alpha sent host IPI, INIT, 1 times"),
        (0x4608, "alpha sent host IPI, STARTUP, 1 times"),
        (0xC00F8, "alpha sent host IPI, vector 0xf8 to all-but-self, 1 times"),
        (0x800EA, "alpha sent host IPI, vector 0xea to all, 1 times"),
    ],
)
def test_an_interrupt_across_the_border(command: int, what: str) -> None:
    assert found(sent(3, command, 1)) == [what]


def test_messages_may_cross() -> None:
    assert found([*sent(3, 0xEA), *sent(2, 0xEA, 3)]) == []
    assert MESSAGE in agreed("tree")


def test_only_the_host_calls_cpus_and_only_then() -> None:
    call = [*sent(0, 0xC500, 3), *sent(0, 0x8500, 3), *sent(0, 0x69A, 3)]
    assert found(call, ("start",)) == []
    assert len(found(call)) == 2
    assert found(sent(3, 0xC500, 1), ("start", "stop")) == ["alpha sent host IPI, INIT, 1 times"]


def test_everybody_by_number() -> None:
    assert found(sent(0, 0xEA, 0xFF)) == ["host sent alpha IPI, vector 0xea to APIC id 0xff, 1 times"]


def test_logical_destinations_as_set_within_the_stretch() -> None:
    logical = [Write(3, LDR, 1 << 24, 4, "apic-msi"), *sent(1, 0x8FB, 1)]
    assert found(logical) == ["host sent alpha IPI, vector 0xfb, 1 times"]


def test_interrupt_messages() -> None:
    assert found([message(3, 2, 0x31)]) == ["alpha sent host interrupt message, vector 0x31, 1 times"]
    assert found([message(None, 3, 0x31)]) == ["host sent alpha interrupt message, vector 0x31, 1 times"]


def test_evidence_is_counted_and_cut() -> None:
    crossed = crossings(sent(3, 0xFD, 1) * 30, IDS, KERNELS, HOST)
    (finding,) = interrupts.foreign(crossed, agreed("reference"))
    assert finding.what.endswith("30 times")
    evidence, allowed = finding.evidence
    assert evidence.title == "the first of 30"
    line = "alpha (vCPU 3) -> host (APIC ids [1]): IPI, vector 0xfd"
    assert evidence.text.splitlines() == [line] * interrupts.SHOWN
    assert "vector 0xea from any kernel" in allowed.text


def test_everybody_writes_to_what_is_his() -> None:
    own = [Write(3, 0x3F8, 65, 1, "serial"), Write(3, 0x2F9, 1, 1, "serial"), Write(0, 0x43, 0, 1, "pit")]
    assert touched(*own, Write(3, 0x80, 0, 1, "ioport80"), Write(3, ICR_LOW, 0xEA, 4, "apic-msi")) == []


@pytest.mark.parametrize(
    ("write", "device"),
    [
        (Write(3, 0x3E8, 65, 1, "serial"), "serial line host"),
        (Write(3, 0x43, 0x30, 1, "pit"), "PIT"),
        (Write(3, 0xFEC00010, 0x10000, 4, "ioapic"), "IO-APIC"),
        (Write(3, 0xCF8, 0x80000000, 4, "pci-conf-idx"), "PCI configuration address"),
        (Write(3, 0x64, 0xFE, 1, "i8042-cmd"), "keyboard controller (resets the machine)"),
        (Write(3, 0xC040, 1, 1, "virtio-pci"), "device 'virtio-pci'"),
    ],
)
def test_a_device_of_the_hosts(write: Write, device: str) -> None:
    assert touched(write) == [f"alpha wrote 1 times to host's {device}"]


def test_a_device_of_a_spawned_kernels() -> None:
    assert touched(Write(0, 0x3F8, 65, 1, "serial")) == ["host wrote 1 times to alpha's serial line alpha"]


def test_what_was_lent() -> None:
    pic = Write(3, 0x20, 0x62, 1, "pic")
    assert touched(pic) == ["alpha wrote 1 times to host's PIC"]
    assert touched(pic, lent=LENT["v1"]) == []


def test_what_qemu_does_itself_is_nobodys() -> None:
    assert touched(Write(None, 0x43, 0, 1, "pit")) == []
