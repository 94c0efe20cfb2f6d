# SPDX-License-Identifier: MIT
"""What a spawned kernel could do to the machine's devices: each thing is done once, and seen from outside."""

from __future__ import annotations

import re
import time

from harness.isolation.attack import NotTried, Outcome, Scene

IO_APIC, CONSOLE_PIN = 0xFEC0_0000, 4
PIT_MODES = (0x34, 0x36)
"""Control words: counter 0, both bytes, mode 2 or 3. Source: Intel 82371AB datasheet, 8254 timer."""
PM_INTERRUPT_LINE = 0x8000_0B3C
"""PCI configuration address: bus 0, device 1, function 3 (PIIX4's power management), register 0x3c."""
WORD = b"[forged]"


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


def _controllers(scene: Scene, pattern: str) -> str:
    told = str(scene.lab.machine.qmp.execute("human-monitor-command", command_line="info pic"))
    match = re.search(pattern, told)
    if match is None:
        raise NotTried("QEMU does not show the interrupt controllers")
    return " ".join(match[1].split())
