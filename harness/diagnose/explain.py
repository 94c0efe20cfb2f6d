# SPDX-License-Identifier: MIT
"""A failing test with a machine explained: what happened, who hangs where, the consoles, what to do next.

    explanation = explain(lab, told)
    for title, text in explanation.sections: ...

Everything is written into the failure's folder whole, and shown within limits. A part that fails
says so in a line; none keeps the others, or the failure, from being told.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import TypeVar

import msgspec

from harness import failure
from harness.diagnose import kept
from harness.diagnose.conclude import conclude
from harness.diagnose.consoles import merged
from harness.diagnose.images import image_of, in_pool
from harness.diagnose.life import Life, lives
from harness.diagnose.places import Places
from harness.diagnose.splats import Decoded, decoded_splats
from harness.diagnose.stacks import Frame
from harness.diagnose.told import Told
from harness.diagnose.vcpus import Seen, layout_of, listed, look, registers_text, runs_payload, stacks, still
from harness.diagnose.waiting import blocked
from harness.errors import HarnessError
from harness.failure import Failure
from harness.lab import Lab
from harness.multikernel.kernel import Resource, parse_iomem
from harness.multikernel.layout import HOST, claimed_layout
from harness.partition import Look, Part, Partition, parts_of
from harness.recorder import last_lines
from harness.report.memorymap import text_of
from harness.report.record import Console, clip, visible
from harness.vm.ram import ram_of
from harness.vm.registers import registers_of
from harness.vm.state import State

FRAMES = 8
"""Frames of each stack that are shown."""
SPLAT = 6_000
"""Characters of all splats that are shown."""
STEPS = 6
"""Steps that are shown of what was done to the machine."""
WIDTH = 150
QEMU_LIMIT = 2.0
"""Seconds that QEMU has to say that it still listens, before scaling by the accelerator."""
T = TypeVar("T")


@dataclass
class Explanation:
    """What is shown, by title and in order; ``failure`` is what was kept, None where that failed.

    ``silent`` says that the host kernel was asked, and did not answer.
    """

    sections: list[tuple[str, str]] = field(default_factory=list)
    failure: Failure | None = None
    map: tuple[Part, ...] = ()
    silent: bool = False


@dataclass
class _Parts:
    """What could be found out; ``lost`` says of what could not, why."""

    lives: tuple[Life, ...] = ()
    seen: tuple[Seen, ...] = ()
    splats: Mapping[str, Sequence[Decoded]] = field(default_factory=dict)
    map: tuple[Part, ...] = ()
    blocked: str = ""
    lost: list[str] = field(default_factory=list)

    def get(self, what: str, find: Callable[[], T], otherwise: T) -> T:
        """Return what ``find`` finds; whatever that raises is a line of the explanation."""
        try:
            return find()
        except Exception as error:
            first = str(error).partition("\n")[0] or type(error).__name__
            self.lost.append(f"not known: {what} ({first})")
            return otherwise


def explain(lab: Lab, told: Told) -> Explanation:
    """Find out what can be, keep it, and return what to show. Never raises an Exception."""
    parts, now = _Parts(), time.monotonic()
    nothing: tuple[Console, ...] = ()
    no_map: tuple[Part, ...] = ()
    last = parts.get("what the consoles showed", lambda: last_lines(lab), nothing)
    steps = parts.get("what was done", lambda: _steps(lab), "")
    if _listens(lab):
        # The vCPUs first: asking kernels changes what they do.
        parts.seen = parts.get("what the vCPUs do", lambda: look(lab), ())
        parts.lives = parts.get("whether the kernels live", lambda: lives(lab), ())
        parts.map = parts.get("the memory's map", lambda: _map(lab, parts.lives), no_map)
    else:
        parts.lost.append(f"not known: what the vCPUs do, the memory's map ({_why_silent(lab)})")
        parts.lives = parts.get("how far the kernels got", lambda: lives(lab), ())
    parts.splats = parts.get("the splats", lambda: decoded_splats(lab, told.began.marks), {})
    if told.waited:
        parts.blocked = parts.get("what waits for what", lambda: blocked(lab, parts.lives), "")
    consoles = parts.get("the consoles", lambda: merged(last, parts.splats, told, now), ("", ""))
    happened = parts.get("what it comes to", lambda: _happened(lab, told, parts), "")
    sections = [
        ("claim", _claim(told)),
        ("what happened", happened),
        ("splats", clip(_splats(parts.splats), SPLAT)),
        ("vCPUs", parts.get("the vCPUs", lambda: _vcpus(lab, parts.seen), "")),
        ("blocked tasks and locks", clip(parts.blocked, SPLAT)),
        ("done last", steps),
        ("consoles", consoles[0]),
    ]
    sections = [(title, text) for title, text in sections if text]
    return _kept(lab, told, parts, sections, consoles[1])


def _kept(lab: Lab, told: Told, parts: _Parts, sections: list[tuple[str, str]], consoles: str) -> Explanation:
    """Keep everything, and add where that is and what goes on from there."""
    next_lines: list[str] = []
    about: Failure | None = None
    try:
        about = kept.failure_of(lab, told)
        next_lines = [f"{purpose}: {command}" for purpose, command in about.commands.items()]
        whole = "\n\n".join(f"{title}:\n{text}" for title, text in sections)
        about = msgspec.structs.replace(about, explanation="\n".join([told.why, "", whole, "", *next_lines]))
        files: dict[str, str | bytes] = {
            failure.CONSOLES: consoles,
            failure.MAP: text_of(parts.map) if parts.map else "",
            failure.VCPUS: f"{stacks(parts.seen)}\n\n{registers_text(parts.seen)}\n",
            "splats.txt": _splats(parts.splats),
        }
        about = kept.keep(lab, about, files, listens=bool(parts.seen))
        next_lines += [f"kept: {about.folder}"]
    except Exception as error:
        about = None
        next_lines.append(f"not kept: {str(error).partition(chr(10))[0]}")
    silent = any(life.kernel == HOST and life.answers is False for life in parts.lives)
    return Explanation([*sections, ("what to do next", "\n".join(next_lines))], about, parts.map, silent)


def _listens(lab: Lab) -> bool:
    """Say whether QEMU is there and answers: one that was stopped does neither die nor answer."""
    if lab.machine.state is State.GONE:
        return False
    try:
        lab.machine.qmp.execute("query-status", timeout=QEMU_LIMIT * lab.accel.factor)
    except HarnessError:
        return False
    return True


def _why_silent(lab: Lab) -> str:
    return "there is no QEMU any more" if lab.machine.state is State.GONE else "QEMU does not answer"


def _claim(told: Told) -> str:
    return f"{told.claim}\nclaimed by: {told.source}" if told.claim else ""


def _happened(lab: Lab, told: Told, parts: _Parts) -> str:
    unexpected = {
        name: splats
        for name, splats in parts.splats.items()
        if lab.machine.console(name).unexpected(told.began.marks.get(name, 0)) or told.waited
    }
    said = conclude(lab.machine, unexpected, parts.lives, parts.seen, why=told.why, waited=told.waited)
    pool = parts.get("where the host is", lambda: in_pool(lab), "") if parts.seen else ""
    return "\n".join([*([pool] if pool else []), said, *map(str, parts.lives), *parts.lost])


def _splats(splats: Mapping[str, Sequence[Decoded]]) -> str:
    return "\n\n".join(f"{name}:\n{one.text}" for name, told in splats.items() for one in told)


def _vcpus(lab: Lab, seen: Sequence[Seen]) -> str:
    """Return a stack for each vCPU that may tell something, and a line for all others."""
    looked_into = lab.machine.cause is not None
    shown = [
        one
        for one in seen
        if one.last.started and not one.idle and (one.spins or (looked_into and not one.last.user))
    ]
    with _placing(lab) as place:
        parts = [stacks(shown, place, FRAMES), listed([one for one in seen if one not in shown])]
    return "\n".join(part for part in parts if part)


@contextmanager
def _placing(lab: Lab) -> Iterator[Callable[[str, Frame], str]]:
    """Yield what finds file and line of a frame."""
    known: dict[str, Places] = {}

    def place(kernel: str, frame: Frame) -> str:
        if not kernel or not frame.function or runs_payload(lab, kernel):
            return ""
        if kernel not in known:
            known[kernel] = Places(image_of(lab, kernel))
        return known[kernel].of(frame.function, frame.inside - frame.returns, frame.size, frame.module)

    try:
        yield place
    finally:
        for places in known.values():
            places.close()


def _steps(lab: Lab) -> str:
    lines = []
    for step in list(lab.machine.steps)[-STEPS:]:
        what = f"writes {step.size} bytes to {step.file}" if step.file else f"$ {step.command}"
        times = f" ({step.times} times)" if step.times > 1 else ""
        ended = f" -> {step.ended}" if step.ended else " -> (did not end)"
        line = visible(f"{step.kernel} {what}").replace("\n", "; ")
        lines.append(f"{line if len(line) <= WIDTH else line[:WIDTH] + ' ...'}{times}{ended}")
    return "\n".join(lines)


def _map(lab: Lab, known: Sequence[Life]) -> tuple[Part, ...]:
    """Return the memory as a map; a host that answers is asked for its claims, else the grants stand."""
    iomem: tuple[Resource, ...] = ()
    if any(one.kernel == HOST and one.answers for one in known):
        with suppress(HarnessError):
            iomem = parse_iomem(lab.host.run("cat /proc/iomem", timeout=2.0))
    with still(lab):
        ram, registers = ram_of(lab.machine), registers_of(lab.machine.qmp)
        layout = layout_of(lab)
        if iomem:
            pool = lab.topology.pool.region if lab.dialect.pooled else None
            layout = claimed_layout(ram.regions, pool, iomem, lab.granted)
        tables = Partition(lab).tables(ram, layout, registers)
        return parts_of(Look(ram, layout, registers, tables))
