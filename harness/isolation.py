# SPDX-License-Identifier: MIT
"""`mkh isolation`: what keeps one kernel from touching another, as experiments tell.

Each cell is one experiment on a machine of its own (harness.properties), and what a Linux there does
of its own accord (harness.border) and maps (harness.partition). The word in a cell follows from the
outcomes:

    by hardware      code with all privileges tried, and nothing happened
    by page tables   it went through, but the Linux there has no mapping of such memory
    by convention    it went through, and only nobody does it
    not at all       a Linux does it in its ordinary life
    not tried        with the reason
"""

from __future__ import annotations

import time
from contextlib import ExitStack
from dataclasses import dataclass

import msgspec

from harness.attack import Direction, Outcome, staged
from harness.border import Border, agreed, watch
from harness.definition import load_topology
from harness.errors import HarnessError
from harness.forks import Forks
from harness.lab import Lab
from harness.model import Region
from harness.multikernel.kernel import Kernel
from harness.multikernel.layout import HOST
from harness.partition import Partition, trespasses
from harness.progress import Progress
from harness.properties import RESET, ROWS, Row
from harness.vm.command import CommandFailed
from harness.vm.console import printed
from harness.vm.state import Cause

HARDWARE, TABLES, CONVENTION = "by hardware", "by page tables", "by convention"
NOTHING, UNTRIED = "not at all", "not tried"
CROWD = "trio"
"""The topology with room for two spawned kernels."""
ENDS = ("reboot -f", "poweroff -f", "echo c >/proc/sysrq-trigger")
HOST_ENDS = ("reboot -f", "echo c >/proc/sysrq-trigger")
LOAD = (
    "mkctl shoot 50; test ! -e /lib/modules/mkraw.ko ||"
    " for n in 1 2 3; do insmod /lib/modules/mkraw.ko && rmmod mkraw; done"
)
"""What makes a host's CPUs call each other, one by one and all at once."""
BOOT_LIMIT = 40.0
END_WAIT = 0.6
"""Seconds that a kernel has to boot, and to do what its end brings, before scaling by the accelerator."""


class Cell(msgspec.Struct, frozen=True):
    """One cell: the word, and what it follows from."""

    word: str
    evidence: tuple[str, ...]


class Property(msgspec.Struct, frozen=True):
    """One row: what could be touched, and by direction what keeps a kernel off."""

    what: str
    cells: dict[str, Cell]


class Report(msgspec.Struct, frozen=True):
    """The table of one build; ``agreed`` is what may cross a border at some time, and is no attack."""

    kernel: str
    build: str
    agreed: tuple[str, ...]
    rows: tuple[Property, ...]


class Conduct(msgspec.Struct):
    """What a Linux does of its own accord, by kind (``Row.traced``), and whether it maps others' RAM."""

    did: dict[str, str] = {}
    mapped: bool | None = None
    mapping: str = ""


def run(forks: Forks, progress: Progress) -> Report:
    """Try everything. Raises HarnessError when not even two kernels start."""
    quiet = Progress(progress.quiet_console())
    crowd = Forks(forks.build, load_topology(CROWD), forks.accel)
    with progress.step("what the kernels do of their own accord"):
        spawned, host = _spawned(forks, quiet), _host(forks, quiet)
    conduct: dict[Direction, Conduct] = {
        "spawned -> host": spawned,
        # Its page tables are the same whoever the other is; what it does was seen with one alone.
        "spawned -> spawned": Conduct(mapped=spawned.mapped, mapping=spawned.mapping),
        "host -> spawned": host,
    }
    unstaged: dict[Direction, Untried] = {}
    rows = []
    with progress.step("one experiment for each cell") as step:
        for row in ROWS:
            cells: dict[str, Cell] = {}
            for direction in row.directions:
                step.update(f"{row.what}, {direction}")
                machines = crowd if direction == "spawned -> spawned" else forks
                tried = unstaged.get(direction) or _twice(machines, row, direction, quiet)
                if isinstance(tried, Untried) and not tried.started:
                    unstaged[direction] = tried
                cells[direction] = _cell(row, tried, conduct[direction])
            rows.append(Property(row.what, cells))
        step.done(f"{sum(len(row.cells) for row in rows)} cells")
    build = forks.build
    may_cross = tuple(map(str, agreed(build.definition.dialect, ("start", "stop"))))
    return Report(build.definition.name, build.digest, may_cross, tuple(rows))


@dataclass(frozen=True)
class Untried:
    """Why an experiment was not tried; not ``started``: because the kernels did not even start."""

    why: str
    started: bool = True


def _twice(forks: Forks, row: Row, direction: Direction, quiet: Progress) -> Outcome | Untried:
    """Try an experiment; once more where the kernels did not start, since once may be bad luck."""
    tried = _try(forks, row, direction, quiet)
    return tried if isinstance(tried, Outcome) or tried.started else _try(forks, row, direction, quiet)


def _try(forks: Forks, row: Row, direction: Direction, quiet: Progress) -> Outcome | Untried:
    """Return what became of an experiment, or why it was not tried."""
    with ExitStack() as stack:
        try:
            scene = stack.enter_context(staged(forks, direction, quiet))
        except HarnessError as error:
            return Untried(_reason(error), started=False)
        for console in scene.lab.machine.consoles.values():
            stack.enter_context(console.expected(".", required=False))
        try:
            outcome = row.experiment(scene)
        except HarnessError as error:
            return Untried(_reason(error))
        return Outcome(outcome.through, f"{scene.attacker.name}: {outcome.evidence}")


def _reason(error: HarnessError) -> str:
    """Say in a line why something was not tried; of a command that failed, what it said last."""
    if isinstance(error, CommandFailed):
        return error.details.rpartition("\n")[2].removeprefix("stderr: ")
    return error.what.splitlines()[0]


def _cell(row: Row, tried: Outcome | Untried, conduct: Conduct) -> Cell:
    did = [words for kind, words in conduct.did.items() if kind.startswith(row.traced)] if row.traced else []
    mapped = conduct.mapped if row.memory else None
    if isinstance(tried, Untried):
        return Cell(word(None, mapped=mapped, ordinary=bool(did)), (tried.why, *did))
    mapping = [conduct.mapping] if row.memory and conduct.mapping else []
    found = word(tried.through, mapped=mapped, ordinary=bool(did))
    return Cell(found, (tried.evidence, *did, *mapping))


def word(through: bool | None, *, mapped: bool | None, ordinary: bool) -> str:
    """Return the word that follows from the outcomes.

    ``through``: the attack went through, None when it was not tried; ``mapped``: the Linux there maps
    such memory, None when that says nothing; ``ordinary``: a Linux does it by itself.
    """
    if ordinary:
        return NOTHING
    if through is None:
        return UNTRIED
    if not through:
        return HARDWARE
    return TABLES if mapped is False else CONVENTION


def _spawned(forks: Forks, quiet: Progress) -> Conduct:
    """Watch a spawned Linux boot and end in several ways, and look at what it maps."""
    conduct = Conduct()
    with forks.lab("booted", quiet) as lab:
        granted = lab.topology.spawned[0]
        instance = lab.dialect.grant(lab.host, lab.topology, granted)
        arguments = " ".join(lab.dialect.spawned_arguments(lab.topology, granted))
        lab.dialect.load(lab.host, instance, lab.dialect.linux, arguments)
        with watch(lab, instance, during=["start"]) as border:
            lab.dialect.start(lab.host, instance)
            up = printed(f"mkh: user space is up on {granted.name}")
            lab.machine.console(granted.name).expect(up, timeout=BOOT_LIMIT)
        _note(conduct, border, granted.name, "the boot of a spawned Linux")
    for how in ENDS:
        with forks.lab("spawned", quiet) as lab:
            _end(conduct, lab, lab.pair().spawned, how)
    with forks.lab("spawned", quiet) as lab:
        pair = lab.pair()
        code = next(one.region for one in lab.host.iomem() if one.name == "Kernel code")
        _reach(conduct, lab, pair.spawned, code)
    return conduct


def _host(forks: Forks, quiet: Progress) -> Conduct:
    """Watch a host under load, and at its end."""
    conduct = Conduct()
    with forks.lab("spawned", quiet) as lab:
        pair = lab.pair()
        with watch(lab, pair.instance) as border:
            lab.host.run(LOAD, timeout=30)
        _note(conduct, border, HOST, "load in the host")
        _reach(conduct, lab, lab.host, pair.instance.ram)
    for how in HOST_ENDS:
        with forks.lab("spawned", quiet) as lab:
            _end(conduct, lab, lab.host, how)
    return conduct


def _end(conduct: Conduct, lab: Lab, kernel: Kernel, how: str) -> None:
    """Let a kernel end, and add what it did meanwhile, and whether the machine was reset."""
    console, machine = kernel.console, lab.machine
    with console.expected(".", required=False), watch(lab, lab.pair().instance, during=["stop"]) as border:
        console.send(f"{how}\n")
        limit = time.monotonic() + END_WAIT * lab.accel.factor
        while machine.ended() is None and time.monotonic() < limit:
            time.sleep(0.05)
    machine.end_awaited = machine.ended() is not None
    when = f"`{how}` in {'the host' if kernel.name == HOST else 'a spawned Linux'}"
    _note(conduct, border, kernel.name, when)
    if machine.cause is Cause.RESET:
        conduct.did.setdefault(RESET, f"{when} reset the machine")


def _note(conduct: Conduct, border: Border, kernel: str, when: str) -> None:
    """Add what ``kernel`` did beyond its border and was not agreed; what was lent counts as well."""
    for touch in border.touches:
        if touch.kernel == kernel != touch.owner:
            conduct.did.setdefault(touch.device, f"{when} wrote to the {touch.device}")
    for crossing in border.crossings:
        if crossing.source == kernel and not any(one.covers(crossing) for one in border.agreed):
            kind = "broadcast" if crossing.broadcast else crossing.delivery
            conduct.did.setdefault(kind, f"{when} sent {crossing.target} {crossing.kind}")


def _reach(conduct: Conduct, lab: Lab, kernel: Kernel, foreign: Region) -> None:
    """Look at what a Linux maps, and whether root there reads ``foreign`` memory all the same."""
    with Partition(lab).look() as look:
        if look is None:
            return
        own = [tables for tables in look.tables if tables.owner.name == kernel.name]
        mappings = {one for tables in own for one in trespasses(look, tables)}
    if not own:
        return
    conduct.mapped = bool(mappings)
    size = sum(one.physical.size for one in mappings)
    asked = f"dd if=/dev/mem of=/dev/null bs=4096 count=1 skip={foreign.start // 4096}"
    answered = kernel.channel.run(asked).status == 0
    conduct.mapping = (
        f"Linux maps {f'{size >> 10} KiB' if size else 'nothing'} of others' RAM;"
        f" root's /dev/mem {'reads it' if answered else 'does not'}"
    )
