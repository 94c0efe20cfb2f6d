# SPDX-License-Identifier: MIT
"""`mkh bench --build`: what the harness adds to a kernel developer's edit and build.

One line of one patch changes, a string that the kernel prints, differently every time; on the one
side `mkh build` makes a bootable image of it, on the other `make` compiles the same change in a
tree that was prepared before. Both alternate, with the same compiler command.
"""

from __future__ import annotations

import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from harness import paths
from harness.bench import Figure
from harness.build import build, diff, make, series, store, worktree
from harness.definition import Definition
from harness.errors import HarnessError
from harness.progress import Progress

PRINTED = re.compile(rb'^(\+.*\bpr_(?:info|warn|err|notice|debug)\(")(.*)$', re.MULTILINE)
"""An added line whose string can have more in front, and compiles all the same."""


@dataclass(frozen=True)
class Line:
    """A line that a series adds: the patch, the file of the kernel, and the line from its indentation on."""

    patch: series.Patch
    file: str
    text: bytes

    def changed(self, number: int) -> bytes:
        """Return the line with another string."""
        return PRINTED.sub(rb"\g<1>%d \2" % number, b"+" + self.text)[1:]


def run(definition: Definition, progress: Progress, rounds: int) -> list[Figure]:
    """Measure ``rounds`` times each. Raises HarnessError when the series prints nothing to change."""
    build(definition, progress)
    chosen = series.read(definition.series)
    line = find_line(chosen)
    quiet = Progress(progress.quiet_console())
    times: tuple[list[float], list[float]] = ([], [])
    first = time.time_ns()
    _build_changed(definition, chosen, line, first, progress)
    with (
        _prepared(definition, line, first, progress) as (edit, compile_it),
        progress.step("measuring edit_vs_make") as step,
    ):
        for number in range(rounds):
            step.update(f"round {number + 1} of {rounds}")
            # No number was compiled before, so that no cache has it.
            times[0].append(_build_changed(definition, chosen, line, time.time_ns(), quiet))
            edit(time.time_ns())
            with store.build_lock(quiet):
                times[1].append(_time(compile_it))
        medians = (statistics.median(times[0]), statistics.median(times[1]))
        step.done(f"{medians[0] / medians[1]:.3f}")
    what = "one changed line of a patch to a bootable image"
    ratio = medians[0] / medians[1]
    return [
        Figure("edit_vs_make", what, "make alone in a prepared tree", ratio, 1.3, False, medians),
        _resolved(definition, rounds),
    ]


def find_line(chosen: series.Series) -> Line:
    """Return the first line with a string to print that the series adds in C and that stays.

    Raises HarnessError when there is none.
    """
    for patch in chosen.patches:
        for file in diff.parse(patch.text, patch.name):
            if file.path.endswith(".c"):
                _, _, part = patch.text.partition(f"\n+++ b/{file.path}".encode())
                for match in PRINTED.finditer(part.partition(b"\ndiff --git ")[0]):
                    if _is_last(chosen, patch, match[0][1:]):
                        return Line(patch, file.path, match[0][1:])
    raise HarnessError(
        "the series adds no line that prints a string, so there is nothing to change",
        advice="measure with --kernel reference",
    )


def _is_last(chosen: series.Series, patch: series.Patch, text: bytes) -> bool:
    """Say whether a line is in one patch only, once."""
    return sum(other.text.count(text) for other in chosen.patches) == patch.text.count(text) == 1


def _build_changed(
    definition: Definition, chosen: series.Series, line: Line, number: int, progress: Progress
) -> float:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for at, patch in enumerate(chosen.patches):
            text = patch.text.replace(line.text, line.changed(number)) if patch == line.patch else patch.text
            (folder / f"{at:04}.patch").write_bytes(text)
        started = time.perf_counter()
        built = build(definition, progress, series=folder)
        taken = time.perf_counter() - started
    if built.reused:
        raise HarnessError("a changed series gave a build that was there before")
    # Nobody else can have asked for this one.
    shutil.rmtree(built.folder, ignore_errors=True)
    return taken


@contextmanager
def _prepared(
    definition: Definition, line: Line, present: int, progress: Progress
) -> Iterator[tuple[Callable[[int], None], Callable[[], None]]]:
    """Yield what edits and what compiles a copy of the definition's tree, which goes afterwards.

    The tree is where the last build left it, with ``present`` in the line.
    """
    work = paths.cache() / "work"
    with tempfile.TemporaryDirectory(dir=work, prefix="bench-") as name:
        tree = Path(name) / "linux"
        with progress.step("a tree to compare with"), store.build_lock(progress):
            built = work / definition.name / "linux"
            # The source's files are shared, all but the one to edit; what make writes is copied.
            subprocess.run(["cp", "-al", "--", built, tree], check=True)
            worktree.remove(tree / worktree.OUTPUT)
            subprocess.run(["cp", "-a", "--", built / worktree.OUTPUT, tree], check=True)
            file = tree / line.file
            original = file.read_bytes()
            file.unlink()
            shutil.copy2(built / line.file, file)
            before = line.changed(present)
            if original.count(before) != 1:
                raise HarnessError(f"{line.file} does not have the line {before!r} once")
            _make(tree)

        def edit(number: int) -> None:
            file.write_bytes(original.replace(line.changed(present), line.changed(number)))

        yield edit, lambda: _make(tree)
        worktree.remove(tree)


def _make(tree: Path) -> None:
    command = [*make.command(tree), f"-j{make.jobs()}", "bzImage", "modules"]
    result = subprocess.run(command, capture_output=True, check=False, env=make.environment())
    if result.returncode != 0:
        raise HarnessError("make alone fails", details=result.stderr.decode(errors="replace")[-1000:])


def _resolved(definition: Definition, rounds: int) -> Figure:
    """Measure the whole command `mkh build` where nothing has changed."""
    program = Path(sys.executable).with_name("mkh")

    def resolve() -> None:
        subprocess.run([program, "build", definition.name], check=True, capture_output=True)

    resolve()
    median = statistics.median(_time(resolve) for _ in range(rounds))
    return Figure("resolve_s", "mkh build of what is in the store", "", median, 0.5, False, (median,))


def _time(act: Callable[[], object]) -> float:
    started = time.perf_counter()
    act()
    return time.perf_counter() - started
