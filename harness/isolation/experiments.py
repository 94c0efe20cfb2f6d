# SPDX-License-Identifier: MIT
"""What one kernel could do to another's memory and CPUs: each thing is done once, and seen from outside."""

from __future__ import annotations

import secrets
import time

from harness.isolation.attack import NMI_VECTOR, RESCHEDULE, NotTried, Outcome, PayloadAttacker, Scene
from harness.oracle.processors import processors
from harness.vm.lapic import apic_ids
from harness.vm.ram import ram_of
from harness.vm.registers import registers_of

EFER, SVME = 0xC000_0080, 1 << 12
"""An MSR that `info registers` shows, and a bit of it that no guest here uses."""
FLOOD = 300_000
FLOOD_SECONDS = 1.0
MANY = 1000
"""Interrupts that nobody asked for, after which nothing seems to hold them back."""
PEER, STOPPED = 16, 3
"""Size of an entry in the reference series' message area, and a state. Source: kernels/reference/0010."""


def read_ram(scene: Scene) -> Outcome:
    """Read a secret that was put into the victim's memory from outside."""
    secret, at = secrets.token_bytes(8), scene.victim.ram
    ram_of(scene.lab.machine).write(at, secret)
    found = scene.attacker.do(f"peek {at:#x} 8").to_bytes(8, "little")
    return Outcome(found == secret, f"read {found.hex()} at {at:#x}, where {secret.hex()} is")


def _poke(scene: Scene, at: int, what: str) -> Outcome:
    ram = ram_of(scene.lab.machine)
    word = secrets.token_bytes(8)
    word = bytes([word[0] & 0xFE]) + word[1:]  # As a page table entry it is not present.
    before = ram.read(at, 8)
    scene.attacker.do(f"poke {at:#x} {int.from_bytes(word, 'little'):#x} 8")
    after = ram.read(at, 8)
    return Outcome(after == word, f"{what} at {at:#x} was {before.hex()}, is {after.hex()}")


def write_ram(scene: Scene) -> Outcome:
    """Write into a page of the victim's."""
    return _poke(scene, scene.victim.ram, "a page")


def write_text(scene: Scene) -> Outcome:
    """Write into the victim's code."""
    return _poke(scene, scene.victim.text, "code")


def write_page_table(scene: Scene) -> Outcome:
    """Write an unused entry of the page table that a CPU of the victim uses."""
    root = processors(scene.lab.machine)[_vcpu(scene)].cr3
    return _poke(scene, root + 8 * 100, "entry 100 of the page table in CR3")


def write_messages(scene: Scene) -> Outcome:
    """Write into the middle of the area for messages, where neither of the two has its slot."""
    areas = [one.region for one in scene.lab.host.iomem() if "shared" in one.name.lower()]
    if not areas:
        raise NotTried("/proc/iomem names no area for messages")
    return _poke(scene, areas[0].start + areas[0].size // 2 // 8 * 8, "the message area")


def _counted(scene: Scene, command: str, vector: int) -> Outcome:
    victim = scene.victim
    before = victim.interrupts(vector)
    scene.attacker.do(command)
    came = scene.becomes(lambda: victim.interrupts(vector) > before)
    return Outcome(came, f"APIC id {victim.apic_id} {'counted it' if came else 'counted nothing'}")


def ipi(scene: Scene) -> Outcome:
    """Send an interrupt of a vector that no two kernels agreed on."""
    return _counted(scene, f"ipi {scene.victim.apic_id} {RESCHEDULE:#x}", RESCHEDULE)


def nmi(scene: Scene) -> Outcome:
    """Send an NMI."""
    return _counted(scene, f"ipi {scene.victim.apic_id} 0x4400", NMI_VECTOR)


def broadcast(scene: Scene) -> Outcome:
    """Send an interrupt to all but oneself."""
    return _counted(scene, f"ipi 0 {0xC0000 | RESCHEDULE:#x}", RESCHEDULE)


def init(scene: Scene) -> Outcome:
    """Send an INIT, which puts a CPU into reset."""
    scene.attacker.do(f"ipi {scene.victim.apic_id} 0x4500")
    vcpu = _vcpu(scene)
    dead = scene.becomes(lambda: not registers_of(scene.lab.machine.qmp)[vcpu]["CR0"] & 1)
    return Outcome(dead, f"vCPU {vcpu} {'is in real mode, waiting for a SIPI' if dead else 'runs on'}")


def msr(scene: Scene) -> Outcome:
    """Write an MSR; see whose CPU's it was."""
    qmp, victim = scene.lab.machine.qmp, _vcpu(scene)
    before = [one["EFER"] for one in registers_of(qmp)]
    scene.attacker.do(f"wrmsr {EFER:#x} {scene.attacker.do(f'rdmsr {EFER:#x}') ^ SVME:#x}")
    after = [one["EFER"] for one in registers_of(qmp)]
    changed = [vcpu for vcpu, pair in enumerate(zip(before, after, strict=True)) if pair[0] != pair[1]]
    if not changed:
        raise NotTried("the CPU has not taken the write")
    return Outcome(victim in changed, f"EFER changed on vCPU {', '.join(map(str, changed))} alone")


def wbinvd(scene: Scene) -> Outcome:
    """Write back all caches again and again; see what is left of the victim's time."""
    quiet, busy = _beats_during(scene, f"wbinvd {FLOOD}")
    told = f"{busy} beats in {FLOOD_SECONDS:g} s, {quiet} without"
    if scene.lab.accel.name == "tcg":
        raise NotTried(f"TCG has no caches to write back, so that {told} says nothing")
    return Outcome(busy < quiet // 2, told)


def stop_by_host(scene: Scene) -> Outcome:
    """Make the host stop the victim: by its call, or by what a stopped kernel writes."""
    lab, dialect = scene.lab, scene.lab.dialect
    if dialect.numbers is None or dialect.numbers.halt is None:
        raise NotTried("the host can stop nobody")
    if not isinstance(scene.attacker, PayloadAttacker):
        raise NotTried("it is the host's own call")
    told = scene.attacker.payload.boot.told
    if "shared" not in told:
        raise NotTried("the payload was not told where the area for messages is")
    area, ram, victim = told["shared"], ram_of(lab.machine), scene.victim
    peers = range(area + PEER, area + 17 * PEER, PEER)
    slot = next((at for at in peers if ram.read(at + 8, 4) == victim.apic_id.to_bytes(4, "little")), None)
    if slot is None:
        raise NotTried(f"no entry of {victim.name} in the area for messages")
    scene.attacker.do(f"poke {slot + 4:#x} {STOPPED} 4")
    scene.attacker.do(f"ipi {lab.host.apic_ids()[0]} 0xea")
    stopped = scene.becomes(lambda: _vcpu(scene) in _halted_for_good(scene))
    return Outcome(stopped, f"{victim.name} {'was stopped by the host' if stopped else 'runs on'}")


def _halted_for_good(scene: Scene) -> set[int]:
    time.sleep(0.2)
    own = {one.index for one in processors(scene.lab.machine) if one.halted}
    return own if not _answers(scene) else set()


def _answers(scene: Scene) -> bool:
    console = scene.victim.console
    mark = console.mark
    console.send("beat\n")
    time.sleep(0.2 * scene.lab.accel.factor)
    return b"ok beat" in console.transcript[mark:]


def flood(scene: Scene) -> Outcome:
    """Interrupt a CPU of the victim's without end; see what is left of its own time."""
    victim = scene.victim
    before = victim.interrupts(RESCHEDULE)
    quiet, busy = _beats_during(scene, f"ipi {victim.apic_id} {RESCHEDULE:#x} {FLOOD}")
    flooded = scene.becomes(lambda: victim.interrupts(RESCHEDULE) - before > MANY)
    came = victim.interrupts(RESCHEDULE) - before
    return Outcome(
        flooded, f"{came} interrupts arrived so far; {busy} beats in {FLOOD_SECONDS:g} s, {quiet} without"
    )


def _beats_during(scene: Scene, command: str) -> tuple[int, int]:
    """Return the victim's beats in FLOOD_SECONDS, before the attacker runs ``command`` and while it does."""

    def beats() -> int:
        before = scene.victim.beats()
        time.sleep(FLOOD_SECONDS)
        return scene.victim.beats() - before

    quiet = beats()
    scene.attacker.begin(command)
    time.sleep(0.4)
    return quiet, beats()


def _vcpu(scene: Scene) -> int:
    return apic_ids(scene.lab.machine).index(scene.victim.apic_id)
