# SPDX-License-Identifier: MIT
"""`mkh isolation`: what keeps one kernel from touching another, as experiments tell.

Each cell is one experiment on a machine of its own (properties.py), and what a Linux there does and
maps of its own accord (conduct.py). The word in a cell follows from the outcomes:

    by hardware      code with all privileges tried, and nothing happened
    by page tables   it went through, but the Linux there has no mapping of such memory
    by convention    it went through, and only nobody does it
    not at all       a Linux does it in its ordinary life
    not tried        with the reason
"""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass

import msgspec

from harness.border import agreed
from harness.definition import load_topology
from harness.errors import HarnessError
from harness.forks import Forks
from harness.isolation import conduct
from harness.isolation.attack import Direction, Outcome, staged
from harness.isolation.conduct import Conduct
from harness.isolation.properties import ROWS, Row
from harness.progress import Progress
from harness.vm.command import CommandFailed

HARDWARE, TABLES, CONVENTION = "by hardware", "by page tables", "by convention"
NOTHING, UNTRIED = "not at all", "not tried"
CROWD = "trio"
"""The topology with room for two spawned kernels."""


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


def run(forks: Forks, progress: Progress) -> Report:
    """Try everything. Raises HarnessError when not even two kernels start."""
    quiet = Progress(progress.quiet_console())
    crowd = Forks(forks.build, load_topology(CROWD), forks.accel)
    with progress.step("what the kernels do of their own accord"):
        spawned, host = conduct.spawned(forks, quiet), conduct.host(forks, quiet)
    conducts: dict[Direction, Conduct] = {
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
                cells[direction] = _cell(row, tried, conducts[direction])
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


def _cell(row: Row, tried: Outcome | Untried, linux: Conduct) -> Cell:
    did = [words for kind, words in linux.did.items() if kind.startswith(row.traced)] if row.traced else []
    mapped = linux.mapped if row.memory else None
    if isinstance(tried, Untried):
        return Cell(word(None, mapped=mapped, ordinary=bool(did)), (tried.why, *did))
    mapping = [linux.mapping] if row.memory and linux.mapping else []
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
