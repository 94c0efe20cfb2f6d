# SPDX-License-Identifier: MIT
"""The rows of the isolation report: what of one kernel another could touch, and how that is tried."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from harness.isolation import experiments
from harness.isolation import experiments_devices as devices
from harness.isolation.attack import Direction, Outcome, Scene

ALL: tuple[Direction, ...] = ("spawned -> host", "spawned -> spawned", "host -> spawned")
TO_HOST: tuple[Direction, ...] = ("spawned -> host",)
RESET = "machine reset"
MACHINE: tuple[Direction, ...] = ("spawned -> host", "host -> spawned")


Experiment = Callable[[Scene], Outcome]


@dataclass(frozen=True)
class Row:
    """A thing that could be touched. ``directions`` are those in which it is somebody else's.

    ``memory``: page tables can keep a kernel off it. ``traced`` is what its use looks like in what
    harness.border sees of a Linux that goes about its business: a device, or ``fixed``, ``nmi``, ``init``
    and ``broadcast`` for interrupts, RESET.
    """

    what: str
    experiment: Experiment
    directions: tuple[Direction, ...] = ALL
    memory: bool = False
    traced: tuple[str, ...] = ()


ROWS = (
    Row("foreign RAM, read", experiments.read_ram, memory=True),
    Row("foreign RAM, written", experiments.write_ram, memory=True),
    Row("foreign kernel's code", experiments.write_text, memory=True),
    Row("foreign page tables", experiments.write_page_table, memory=True),
    Row("others' part of the message area", experiments.write_messages),
    Row("IPI of any vector", experiments.ipi, traced=("fixed",)),
    Row("NMI", experiments.nmi, traced=("nmi",)),
    Row("INIT (ends a CPU)", experiments.init, traced=("init",)),
    Row("broadcast IPI", experiments.broadcast, traced=("broadcast",)),
    Row("IO-APIC: masking an interrupt", devices.io_apic, TO_HOST, traced=("IO-APIC",)),
    Row("PIC: masking an interrupt", devices.pic, TO_HOST, traced=("PIC", "PIC trigger modes")),
    Row("PIT", devices.pit, TO_HOST, traced=("PIT", "PIT gate and speaker")),
    Row(
        "PCI configuration",
        devices.pci,
        TO_HOST,
        traced=("PCI configuration address", "PCI configuration data"),
    ),
    Row("another's serial line", devices.serial, traced=("serial line",)),
    Row("reset by port 0xcf9", devices.reset_control, MACHINE, traced=("reset control",)),
    Row("reset by port 0x64", devices.keyboard_reset, MACHINE, traced=("keyboard controller", RESET)),
    Row("triple fault", devices.triple_fault, MACHINE),
    Row("ACPI power off", devices.power_off, MACHINE, traced=("ACPI power management",)),
    Row("WBINVD", experiments.wbinvd),
    Row("MSR of another CPU", experiments.msr),
    Row("stopping it through the host", experiments.stop_by_host, ("spawned -> spawned",)),
    Row("flood of interrupts", experiments.flood),
)
