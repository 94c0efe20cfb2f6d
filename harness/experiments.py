# SPDX-License-Identifier: MIT
"""What one kernel could do to another, each thing really done once, and seen from outside.

An experiment returns what happened: whether the attack went through, and the evidence in a line.
"""

from __future__ import annotations

import re
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass

from harness.attack import NMI_VECTOR, RESCHEDULE, Direction, NotTried, PayloadAttacker, Scene
from harness.oracle.processors import processors
from harness.vm.lapic import apic_ids
from harness.vm.ram import ram_of
from harness.vm.registers import registers_of

IO_APIC, CONSOLE_PIN = 0xFEC0_0000, 4
PIT_MODES = (0x34, 0x36)
"""Control words: counter 0, both bytes, mode 2 or 3. Source: Intel 82371AB datasheet, 8254 timer."""
PM_INTERRUPT_LINE = 0x8000_0B3C
"""PCI configuration address: bus 0, device 1, function 3 (PIIX4's power management), register 0x3c."""
EFER, SVME = 0xC000_0080, 1 << 12
"""An MSR that `info registers` shows, and a bit of it that no guest here uses."""
FLOOD = 300_000
FLOOD_SECONDS = 1.0
MANY = 1000
"""Interrupts that nobody asked for, after which nothing seems to hold them back."""
PEER, STOPPED = 16, 3
"""Size of an entry in the reference series' message area, and a state. Source: kernels/reference/0010."""
WORD = b"[forged]"


@dataclass(frozen=True)
class Outcome:
    """What became of an attack."""

    through: bool
    evidence: str


Experiment = Callable[[Scene], Outcome]


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


def io_apic(scene: Scene) -> Outcome:
    """Mask the interrupt of the host's console."""
    before = _controllers(scene, rf"pin {CONSOLE_PIN} +(.*)")
    scene.attacker.do(f"poke {IO_APIC:#x} {0x10 + 2 * CONSOLE_PIN:#x} 4")
    scene.attacker.do(f"poke {IO_APIC + 0x10:#x} 0x10000 4")
    after = _controllers(scene, rf"pin {CONSOLE_PIN} +(.*)")
    return Outcome(before != after, f"pin {CONSOLE_PIN} was {before}, is {after}")


def pic(scene: Scene) -> Outcome:
    """Change the mask of the legacy interrupt controller."""
    before = int(_controllers(scene, r"pic0: .*imr=(\w+)"), 16)
    scene.attacker.do(f"out 0x21 {before ^ 0xFF:#x}")
    after = int(_controllers(scene, r"pic0: .*imr=(\w+)"), 16)
    return Outcome(before != after, f"the mask was {before:#04x}, is {after:#04x}")


def pit(scene: Scene) -> Outcome:
    """Program the timer; its mode is read back by the same ports, which are one for all CPUs."""
    before = _pit_mode(scene)
    wanted = next(mode for mode in PIT_MODES if mode & 0xE != before)
    for port, value in ((0x43, wanted), (0x40, 0xFF), (0x40, 0xFF)):
        scene.attacker.do(f"out {port:#x} {value:#x}")
    after = _pit_mode(scene)
    return Outcome(after != before, f"counter 0 was in mode {before >> 1}, is in mode {after >> 1}")


def _pit_mode(scene: Scene) -> int:
    scene.attacker.do("out 0x43 0xe2")
    return scene.attacker.do("in 0x40") & 0xE


def pci(scene: Scene) -> Outcome:
    """Change the interrupt line that a device's configuration names."""

    def line() -> int:
        devices = [one for bus in scene.lab.machine.qmp.execute("query-pci") for one in bus["devices"]]
        return next(int(one["irq"]) for one in devices if (one["slot"], one["function"]) == (1, 3))

    before = line()
    scene.attacker.do(f"out 0xcf8 {PM_INTERRUPT_LINE:#x} 4")
    scene.attacker.do(f"out 0xcfc {before ^ 1:#x}")
    return Outcome(line() != before, f"PCI 00:01.3 had interrupt line {before}, has {line()}")


def serial(scene: Scene) -> Outcome:
    """Print on the victim's console."""
    console, port = scene.victim.console, scene.victim.port
    mark = console.mark
    for byte in WORD:
        scene.attacker.do(f"out {port:#x} {byte:#x}")
    printed = scene.becomes(lambda: WORD in console.transcript[mark:])
    return Outcome(printed, f"{WORD.decode()} {'stands' if printed else 'does not stand'} on its console")


def _ends(scene: Scene, *commands: str) -> Outcome:
    for command in commands:
        scene.attacker.begin(command)
        time.sleep(0.3)
    machine = scene.lab.machine
    ended = scene.becomes(lambda: machine.ended() is not None)
    machine.end_awaited = ended
    return Outcome(ended, f"the machine {f'ended: {machine.ended()}' if ended else 'runs on'}")


def reset_control(scene: Scene) -> Outcome:
    """Reset the machine by port 0xcf9."""
    return _ends(scene, "out 0xcf9 2", "out 0xcf9 6")


def keyboard_reset(scene: Scene) -> Outcome:
    """Reset the machine by port 0x64."""
    return _ends(scene, "out 0x64 0xfe")


def power_off(scene: Scene) -> Outcome:
    """Switch the machine off by ACPI's control register, where QEMU's firmware puts it."""
    return _ends(scene, "out 0x604 0x2000 2")


def triple_fault(scene: Scene) -> Outcome:
    """Fault three times, which is a CPU's own affair, and resets a PC."""
    return _ends(scene, "fault")


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
    """Write back all caches: a thing of time alone."""
    raise NotTried(f"the {scene.lab.accel.name} accelerator has no caches, so nothing could be seen of it")


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

    def beats() -> int:
        before = victim.beats()
        time.sleep(FLOOD_SECONDS)
        return victim.beats() - before

    quiet, before = beats(), victim.interrupts(RESCHEDULE)
    scene.attacker.begin(f"ipi {victim.apic_id} {RESCHEDULE:#x} {FLOOD}")
    time.sleep(0.4)
    busy = beats()
    flooded = scene.becomes(lambda: victim.interrupts(RESCHEDULE) - before > MANY)
    came = victim.interrupts(RESCHEDULE) - before
    return Outcome(
        flooded, f"{came} interrupts arrived so far; {busy} beats in {FLOOD_SECONDS:g} s, {quiet} without"
    )


def _vcpu(scene: Scene) -> int:
    return apic_ids(scene.lab.machine).index(scene.victim.apic_id)


def _controllers(scene: Scene, pattern: str) -> str:
    told = str(scene.lab.machine.qmp.execute("human-monitor-command", command_line="info pic"))
    match = re.search(pattern, told)
    if match is None:
        raise NotTried("QEMU does not show the interrupt controllers")
    return " ".join(match[1].split())


ALL: tuple[Direction, ...] = ("spawned -> host", "spawned -> spawned", "host -> spawned")
TO_HOST: tuple[Direction, ...] = ("spawned -> host",)
RESET = "machine reset"
MACHINE: tuple[Direction, ...] = ("spawned -> host", "host -> spawned")


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
    Row("foreign RAM, read", read_ram, memory=True),
    Row("foreign RAM, written", write_ram, memory=True),
    Row("foreign kernel's code", write_text, memory=True),
    Row("foreign page tables", write_page_table, memory=True),
    Row("others' part of the message area", write_messages),
    Row("IPI of any vector", ipi, traced=("fixed",)),
    Row("NMI", nmi, traced=("nmi",)),
    Row("INIT (ends a CPU)", init, traced=("init",)),
    Row("broadcast IPI", broadcast, traced=("broadcast",)),
    Row("IO-APIC: masking an interrupt", io_apic, TO_HOST, traced=("IO-APIC",)),
    Row("PIC: masking an interrupt", pic, TO_HOST, traced=("PIC", "PIC trigger modes")),
    Row("PIT", pit, TO_HOST, traced=("PIT", "PIT gate and speaker")),
    Row("PCI configuration", pci, TO_HOST, traced=("PCI configuration address", "PCI configuration data")),
    Row("another's serial line", serial, traced=("serial line",)),
    Row("reset by port 0xcf9", reset_control, MACHINE, traced=("reset control",)),
    Row("reset by port 0x64", keyboard_reset, MACHINE, traced=("keyboard controller", RESET)),
    Row("triple fault", triple_fault, MACHINE),
    Row("ACPI power off", power_off, MACHINE, traced=("ACPI power management",)),
    Row("WBINVD", wbinvd),
    Row("MSR of another CPU", msr),
    Row("stopping it through the host", stop_by_host, ("spawned -> spawned",)),
    Row("flood of interrupts", flood),
)
