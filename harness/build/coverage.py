# SPDX-License-Identifier: MIT
"""Counters in what a series touches, and what a build keeps so that they can be read later.

gcc's own instrumentation (-fprofile-arcs), which the fragment ``gcov`` switches on. It is confined
to the C files that the series touches: with counters in every file a kernel under TCG takes twice
as long for everything. Kbuild expands CFLAGS_GCOV once for each object, in the rule that compiles
it; so one variable on make's command line confines it, and no Makefile has to be patched.
"""

from __future__ import annotations

import difflib
import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path

import msgspec

from harness.build.apply import Applied, read_file
from harness.build.kconfig import Wish
from harness.build.worktree import OUTPUT

FOLDER = "coverage"
"""In a build's folder: the touched sources, gcc's notes (.gcno) beside them, and SERIES."""
SERIES = "series.json"

FLAGS = "-fprofile-arcs -ftest-coverage -fno-tree-loop-im -fprofile-update=atomic"
"""As the kernel's own Makefile has them. Counters are atomic, since two CPUs that lose counts leave
sums that do not fit, and gcov computes most counts as differences of others."""

Lines = tuple[int, int]
"""The first and the last of some lines in a row, counted from 1."""


def instrumented(wishes: Iterable[Wish]) -> bool:
    """Say whether a configuration asks for counters."""
    return any(wish.symbol == "GCOV_KERNEL" and wish.value == "y" for wish in wishes)


def variables(wishes: Sequence[Wish], applied: Applied) -> list[str]:
    """Return make's variables that confine the counters to the C files that a series touches.

    Without a series nothing is confined.
    """
    touched = " ".join(f"{name[:-2]}.o" for name in _touched(applied) if name.endswith(".c"))
    if not instrumented(wishes) or not touched:
        return []
    return [f"CFLAGS_GCOV=$(if $(filter {touched},$@),{FLAGS})"]


def keep(applied: Applied, tree: Path, entry: Path) -> None:
    """Copy into a build's folder what lines are told by: touched sources, their notes, the lines added."""
    folder = entry / FOLDER
    series: dict[str, list[Lines]] = {}
    for name, content in _touched(applied).items():
        series[name] = added_lines(_before(applied, name), content)
        target = folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(content)
        notes = (tree / OUTPUT / name).with_suffix(".gcno")
        if name.endswith(".c") and notes.is_file():
            shutil.copyfile(notes, target.with_suffix(".gcno"))
    if series:
        (folder / SERIES).write_bytes(msgspec.json.encode(series))


def read_series(folder: Path) -> dict[str, list[Lines]]:
    """Return the lines that the series added to each file; ``folder`` is what ``keep`` filled."""
    return msgspec.json.decode((folder / SERIES).read_bytes(), type=dict[str, list[Lines]])


def added_lines(before: bytes, after: bytes) -> list[Lines]:
    """Return the lines of ``after`` that ``before`` has not."""
    matcher = difflib.SequenceMatcher(None, before.splitlines(), after.splitlines(), autojunk=False)
    return [
        (start + 1, end) for tag, _, _, start, end in matcher.get_opcodes() if end > start and tag != "equal"
    ]


def _touched(applied: Applied) -> dict[str, bytes]:
    """Return the content of the C files and headers that a series touches, and leaves there."""
    return {
        name: file.content
        for name, file in sorted(applied.files.items())
        if file is not None and name.endswith((".c", ".h"))
    }


def _before(applied: Applied, name: str) -> bytes:
    file = read_file(applied.source.tree, name)
    return b"" if file is None else file.content
