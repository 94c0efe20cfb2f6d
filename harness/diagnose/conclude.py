# SPDX-License-Identifier: MIT
"""What a failure comes to, in a sentence or two, from what was seen of the machine."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from harness.diagnose.life import Life
from harness.diagnose.splats import Decoded
from harness.diagnose.vcpus import Seen
from harness.vm.machine import Machine
from harness.vm.state import Cause

OUTSIDE = "seen from outside: "
"""How an error begins that the oracles raise."""
_CAUSES = {
    Cause.LOST: "QEMU was killed from outside, neither by a guest nor by mkharness: by a person or a "
    "program, or by this computer's kernel when it had no memory left (`dmesg | grep -i killed`).",
    Cause.CRASHED: "QEMU itself ended: this is no verdict on the kernels.",
    Cause.RESET: "The machine was reset. {said}",
    Cause.POWERED_OFF: "A kernel powered the whole machine off, where it may end itself only.",
    Cause.PANIC: "A kernel told QEMU of its panic, which ended the whole machine.",
}
_TRIPLE = (
    "No console tells of a reboot, so this was a triple fault: a CPU could not handle an exception, nor the "
    "one that this made (a bad IDT, stack or page table)."
)


def conclude(
    machine: Machine,
    splats: Mapping[str, Sequence[Decoded]],
    lives: Sequence[Life],
    seen: Sequence[Seen],
    *,
    why: str,
    waited: bool,
) -> str:
    """Say what happened; ``why`` is the error's first line, ``waited`` says that the test's time ran out."""
    told = []
    if machine.cause in _CAUSES:
        text = machine.consoles.values()
        reboots = [console.name for console in text if "reboot: " in console.tail(3)]
        said = f"{', '.join(reboots)} had said that it reboots." if reboots else _TRIPLE + _culprits(seen)
        told.append(_CAUSES[machine.cause].format(said=said))
    told += [_printed(name, one) for name, one in splats.items() if one]
    told += [] if machine.cause is not None else _stuck(lives, seen)
    if not told and waited:
        told += [_nobody(lives), *_load()]
    elif not told and why.startswith(OUTSIDE):
        told.append(f"The test itself passed. Then, {why}. {_alive(lives)}")
    elif not told:
        told.append(f"The kernels go on: the test's own check did not hold. {_alive(lives)}")
    return " ".join(told)


def _printed(name: str, splats: Sequence[Decoded]) -> str:
    panicked = any(one.splat.kind == "panic" for one in splats[1:])
    return f"{name} printed: {splats[0]}{', and panicked' if panicked else ''}."


def _culprits(seen: Sequence[Seen]) -> str:
    """Say which vCPUs can have been the ones that reset the machine."""
    empty = [one for one in seen if one.last.started and one.last.registers.idt_limit == 0]
    running = empty or [one for one in seen if one.last.started and one.deaf and not one.halted]
    names = [f"vCPU {one.last.index} ({one.kernel or 'no kernel'}, in {one.place})" for one in running]
    if not names:
        return ""
    why = "its interrupt table is empty" if empty else "it ran with interrupts off"
    return f" It was {names[0]}: {why}." if len(names) == 1 else f" It was one of: {', '.join(names)}."


def _stuck(lives: Sequence[Life], seen: Sequence[Seen]) -> list[str]:
    told = []
    silent = {one.kernel for one in lives if one.answers is False}
    if silent and not seen:
        return [
            "QEMU does not answer, nor do its kernels: it is stopped (a signal, a debugger) or gets no time."
        ]
    for name in dict.fromkeys(one.kernel for one in seen if one.kernel):
        own = [one for one in seen if one.kernel == name]
        stuck = [one for one in own if one.spins and (one.deaf or name in silent)]
        stopped = [one for one in own if one.halted and one.deaf and name in silent]
        where = [f"vCPU {one.last.index} {one}" for one in [*stuck, *stopped]]
        still = next((one.still for one in lives if one.kernel == name), ())
        if where:
            told.append(
                f"{name} hangs: its {'; its '.join(where)}."
                if name in silent
                else f"{name}'s {'; '.join(where)}."
            )
        elif name in silent and own:
            busy = [f"vCPU {one.last.index} {one}" for one in own]
            told.append(f"{name} does not answer, though it is not stuck in one place: {'; '.join(busy)}.")
            told += _load()
        elif still:
            told.append(f"{name} answers, but its heart does not beat on CPU {', '.join(map(str, still))}.")
    alive = [one.kernel for one in lives if one.answers]
    if told and alive:
        told.append(f"{' and '.join(alive)} {'lives' if len(alive) == 1 else 'live'}.")
    without = silent - {one.kernel for one in seen}
    told += [f"{name} does not answer, and no vCPU runs it any more." for name in sorted(without)]
    return told


def _nobody(lives: Sequence[Life]) -> str:
    alive = _alive(lives)
    known = f"No kernel hangs. {alive}" if alive else "No vCPU is stuck in one place."
    return (
        f"{known} What was awaited did not come, or came in other words or earlier: "
        "compare it with the last lines below."
    )


def _alive(lives: Sequence[Life]) -> str:
    alive = [one.kernel for one in lives if one.answers]
    if not alive:
        return ""
    return f"{' and '.join(alive)} {'answers' if len(alive) == 1 else 'answer'}."


def _load() -> list[str]:
    cores = len(os.sched_getaffinity(0))
    load = float(Path("/proc/loadavg").read_text(encoding="ascii").split()[0])
    if load < 3 * cores:
        return []
    return [f"(This computer is busy: load {load:.0f} on {cores} cores. Is it only slow? Try again alone.)"]
