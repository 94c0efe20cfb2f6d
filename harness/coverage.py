# SPDX-License-Identifier: MIT
"""Which lines of the series under test the suite executes: counted into a folder, told from it.

    collector = Collector(folder, build)
    collector.add(machine)                # at the end of each test
    read(folder)                          # a Coverage

The folder holds all that telling needs, the build may go. Any number of processes count into it,
now or later: each has a file of its own.

What a kernel executed is lost where its memory was used again before anybody looked, or QEMU ended:
of a spawned kernel in whose place another one was started, and of a host that was replaced, unless
``look`` was called just before that. Code of modules is not counted, and what is noinstr has no
counters. Counts are sums over looks, each of them with all since the kernel booted: whether a line
was executed is told by them, how often is not.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby
from pathlib import Path

import msgspec
import numpy as np

from harness.build import Build
from harness.build.coverage import FOLDER, SERIES, Lines, instrumented, read_series
from harness.build.kconfig import read_fragments
from harness.definition import Definition
from harness.errors import HarnessError, UsageError
from harness.klog.gcov import Counts, Unit, executed, gcda
from harness.oracle.coverage import Counters
from harness.vm.machine import Machine
from harness.vm.ram import Ram, ram_of
from harness.vm.state import State

ADVICE = "add the fragment gcov: `--kernel reference+gcov`"
_KEPT, _ABOUT = "build", "about.json"


class About(msgspec.Struct, frozen=True):
    """What a folder's counts are of."""

    kernel: str
    build: str
    units: tuple[Unit, ...]


class Tally(msgspec.Struct, frozen=True):
    """What one process counted: machines looked at, kernels found in them, machines that were gone."""

    machines: int
    kernels: int
    gone: int
    counts: list[int]


class FileCoverage(msgspec.Struct, frozen=True):
    """A file's lines that the series added and that have code, how many were executed, which were not.

    ``counted`` says whether the file was instrumented at all.
    """

    file: str
    lines: int
    executed: int
    unexecuted: tuple[Lines, ...]
    counted: bool = True

    @property
    def percent(self) -> float:
        """The share of lines executed, in percent; 100 where there are none."""
        return 100 * self.executed / self.lines if self.lines else 100.0


class Coverage(msgspec.Struct, frozen=True):
    """What a folder tells: by file, and how many machines and kernels that is from."""

    kernel: str
    build: str
    machines: int
    kernels: int
    gone: int
    files: tuple[FileCoverage, ...]

    @property
    def whole(self) -> FileCoverage:
        """All files as one."""
        return FileCoverage(
            "all", sum(one.lines for one in self.files), sum(one.executed for one in self.files), ()
        )


def require(definition: Definition) -> None:
    """Raise UsageError when a definition's kernel has no counters."""
    if not instrumented(read_fragments(definition.configs)):
        raise UsageError(f"{definition.name} has no coverage counters", advice=ADVICE)


class Collector:
    """Counts the kernels of machines into ``folder``, for ``build``.

    Raises UsageError when the build has no counters, or the folder has those of another build.
    """

    def __init__(self, folder: Path, build: Build) -> None:
        if not (build.folder / FOLDER / SERIES).is_file():
            raise UsageError(
                f"{build.definition.name}, build {build.digest}, has no counters of a series", advice=ADVICE
            )
        self._counters = Counters(build.vmlinux)
        self._prepare(folder, build)
        self._file = folder / f"counts-{os.getpid()}-{time.time_ns()}.json"
        self._sum: Counts = np.zeros(sum(unit.size for unit in self._counters.units), np.uint64)
        self._machines = self._kernels = self._gone = 0

    def _prepare(self, folder: Path, build: Build) -> None:
        about = About(build.definition.name, build.digest, self._counters.units)
        if not (folder / _KEPT).exists():
            folder.mkdir(parents=True, exist_ok=True)
            temporary = Path(tempfile.mkdtemp(prefix="new-", dir=folder))
            shutil.copytree(build.folder / FOLDER, temporary, dirs_exist_ok=True)
            (temporary / _ABOUT).write_bytes(msgspec.json.encode(about))
            try:
                temporary.rename(folder / _KEPT)
            except OSError:  # Another worker was faster.
                shutil.rmtree(temporary)
        there = _about(folder)
        if there != about:
            raise UsageError(
                f"{folder} has counts of {there.kernel}, build {there.build}; this is {about.build}",
                advice="give another folder, or remove that one",
            )

    def add(self, machine: Machine) -> None:
        """Count the kernels that a machine has in its memory; it stands still meanwhile."""
        self._machines += 1
        live = machine.state is State.LIVE
        try:
            if live:
                machine.freeze()
            try:
                self.look(ram_of(machine))
            finally:
                if live and machine.ended() is None:
                    machine.thaw()
        except HarnessError:
            # What there is to say of a machine that is gone, the test says.
            self._gone += 1
            self._write()

    def look(self, ram: Ram) -> None:
        """Count the kernels in a machine's memory."""
        for values in self._counters.read(ram):
            self._kernels += 1
            self._sum += values
        self._write()

    def _write(self) -> None:
        tally = Tally(self._machines, self._kernels, self._gone, self._sum.tolist())
        temporary = self._file.with_suffix(".new")
        temporary.write_bytes(msgspec.json.encode(tally))
        temporary.rename(self._file)


def read(folder: Path) -> Coverage:
    """Return what a folder tells. Raises UsageError when it is none that was counted into."""
    about = _about(folder)
    size = sum(unit.size for unit in about.units)
    tallies = [_tally(file, size) for file in sorted(folder.glob("counts-*.json"))]
    counts = np.zeros(size, np.uint64)
    for one in tallies:
        counts += np.array(one.counts, np.uint64)
    kept = folder / _KEPT
    told = _lines(kept, about.units, counts)
    files = tuple(_coverage(name, added, told.get(name)) for name, added in read_series(kept).items())
    return Coverage(
        about.kernel,
        about.build,
        sum(one.machines for one in tallies),
        sum(one.kernels for one in tallies),
        sum(one.gone for one in tallies),
        files,
    )


def source(folder: Path, file: str) -> list[str]:
    """Return the lines of one of the series' files."""
    return (folder / _KEPT / file).read_text(encoding="utf-8", errors="replace").splitlines()


def _about(folder: Path) -> About:
    try:
        return msgspec.json.decode((folder / _KEPT / _ABOUT).read_bytes(), type=About)
    except (OSError, msgspec.MsgspecError) as error:
        raise UsageError(
            f"{folder} holds no coverage: {error}", advice="give the folder that --coverage wrote to"
        ) from None


def _tally(file: Path, size: int) -> Tally:
    try:
        tally = msgspec.json.decode(file.read_bytes(), type=Tally)
    except msgspec.MsgspecError as error:
        raise UsageError(f"{file} holds no counts: {error}", advice="remove it") from None
    if len(tally.counts) != size or not all(0 <= count < 1 << 63 for count in tally.counts):
        raise UsageError(f"{file} holds other counts than this build has", advice="remove it")
    return tally


def _lines(kept: Path, units: Sequence[Unit], counts: Counts) -> dict[str, dict[int, int]]:
    """Let gcov tell how often each line was executed: by path in the kernel's source."""
    notes = {str(file.relative_to(kept).with_suffix("")): file for file in kept.rglob("*.gcno")}
    with tempfile.TemporaryDirectory(prefix="mkharness-") as folder:
        written, at = [], 0
        for unit in units:
            values, at = counts[at : at + unit.size], at + unit.size
            name = next(
                (name for name in notes if unit.file.removesuffix(".gcda").endswith(f"/{name}")), None
            )
            if name is None:
                continue
            target = Path(folder) / name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(notes[name], target.with_suffix(".gcno"))
            target.with_suffix(".gcda").write_bytes(gcda(unit, values))
            written.append(target.with_suffix(".gcda"))
        told: dict[str, dict[int, int]] = {}
        for file, lines in executed(written).items():
            # The compiler was called in the build folder, which is in the source's.
            place = told.setdefault(file.removeprefix("../").removeprefix("./"), {})
            for line, count in lines.items():
                place[line] = place.get(line, 0) + count
    return told


def _coverage(name: str, added: Sequence[Lines], lines: Mapping[int, int] | None) -> FileCoverage:
    counted = {} if lines is None else {line: count for line, count in lines.items() if _within(line, added)}
    missed = tuple(
        (rows[0], rows[-1])
        for hit, group in groupby(sorted(counted), key=lambda line: counted[line] > 0)
        if not hit and (rows := list(group))
    )
    executed_lines = sum(count > 0 for count in counted.values())
    return FileCoverage(name, len(counted), executed_lines, missed, lines is not None)


def _within(line: int, stretches: Iterable[Lines]) -> bool:
    return any(first <= line <= last for first, last in stretches)
