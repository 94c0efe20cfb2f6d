# SPDX-License-Identifier: MIT
"""What belongs to the whole machine, or looks as if: one kernel changes it, or stops its CPUs."""

from __future__ import annotations

import pytest

from harness.border import watch
from harness.faults import FAULTS, provoked
from harness.isolation.attack import MODULE
from harness.multikernel.kernel import Kernel
from harness.plugin import Seen, claim
from harness.scene import Scene
from harness.vm import inject

pytestmark = pytest.mark.needs("spawn", "faults", "halt", "several", "cpus")

HANSEN = "Dave Hansen on similar patches (Parker): nobody arbitrates global state; interface sheet FI-N3"
REGISTERS = {
    # Switched on, all memory uncached; the entries turned round; another entry.
    "MTRRs": (0x2FF, 0x800),
    "PAT entries": (0x277, 0x0006_0504_0100_0704),
    "system call entries": (0xC000_0082, 0xFFFF_FFFF_8000_0000),
}
"""Model-specific registers, and what a spawned kernel puts there. Source: Intel SDM volume 4."""


@claim("{what} that a spawned kernel changes on its CPU are changed on no other kernel's", source=HANSEN)
@pytest.mark.parametrize("what", REGISTERS)
def test_registers(scene: Scene, seen: Seen, what: str) -> None:
    number, value = REGISTERS[what]
    assert scene.third is not None
    host, third = scene.host, scene.third
    host.run(f"insmod {MODULE}")
    read = f"echo rdmsr {number:#x} >/proc/mkraw && cat /proc/mkraw"
    cpus = range(len(host.apic_ids()))
    before = [host.run(f"taskset -c {cpu} sh -c '{read}'") for cpu in cpus]
    theirs = third.command(f"rdmsr {number:#x}").number("value")
    third.command(f"wrmsr {number:#x} {value:#x}")
    changed = third.command(f"rdmsr {number:#x}").number("value")
    stayed = before[0].partition("=")[2].strip()
    seen(f"{what}: {theirs:#x} became {changed:#x} on its CPU, {stayed} stayed on its host's")
    assert changed == value != theirs
    assert [host.run(f"taskset -c {cpu} sh -c '{read}'") for cpu in cpus] == before
    assert scene.pair.spawned.run("echo alive") == "alive"


@claim(
    "the machine's own NMI (its button, its watchdog) is the host's: no spawned kernel hears of it",
    source="kernels/reference/0011; review of RFC v1 (Pasha Tatashin): machine-global state",
)
def test_nmi_of_the_machine(scene: Scene, seen: Seen) -> None:
    def nmis(kernel: Kernel) -> int:
        return sum(int(word) for word in kernel.run("grep NMI: /proc/interrupts").split() if word.isdigit())

    host, spawned = scene.host, scene.pair.spawned
    before = {kernel: nmis(kernel) for kernel in (host, spawned)}
    with host.console.expected(".", required=False), spawned.console.expected(".", required=False):
        inject.nmi(scene.lab.machine)
        host.console.expect("NMI received for unknown reason")
        came = {kernel: nmis(kernel) - before[kernel] for kernel in before}
    seen(", ".join(f"{kernel.name}: {count} NMIs" for kernel, count in came.items()))
    assert came[host], "it did not reach the host"
    assert not came[spawned], f"{spawned.name} got {came[spawned]} NMIs that were for its host (LINT1)"
    assert scene.third is not None
    assert scene.third.ticks_on()


@claim(
    "{who} has several CPUs and panics: it stops its own, and interrupts nobody else's",
    source="interface sheet FI-N5: a panic stops CPUs, perhaps all that there are",
)
@pytest.mark.trespass("the host may be the one that panics, and there is nobody to ask then")
@pytest.mark.parametrize("who", ["host", "alpha"])
def test_panic_stops_its_own(scene: Scene, seen: Seen, who: str) -> None:
    victim = scene.host if who == "host" else scene.pair.spawned
    assert scene.third is not None
    fault, vcpus = FAULTS["panic"], scene.vcpus(victim)
    fault.prepare(victim)
    with (
        watch(scene.lab, scene.pair.instance, scene.third.instance, during=["stop"]) as border,
        provoked(scene.lab.machine, victim, vcpus, fault),
    ):
        scene.third.beats()
    seen(str(border))
    assert border.findings() == (), "\n".join(map(str, border.findings()))
    assert len(vcpus) > 1
    assert scene.third.ticks_on()
