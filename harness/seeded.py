# SPDX-License-Identifier: MIT
"""Seeded faults: small patches on top of a series, each one mistake that the suite must notice.

A patch tells of its fault in fields, above its diff (docs/selfcheck.md):

    # Breaks: the last page of a dead instance's memory is not scrubbed
    # Area: memory
    # Proof: what differs, shown as shortly as it can be
    # Clue: scrub, page
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

from harness import paths
from harness.errors import UsageError

FIELDS = ("Breaks", "Area", "Proof", "Clue")

_FIELD = re.compile(r"^(?:#\s*)?([A-Z][a-z]+):\s*(.*)$")
_MORE = re.compile(r"^(?:#\s*|\s+)(\S.*)$")
_DIFF = ("diff ", "--- ", "Index: ")


@dataclass(frozen=True)
class Fault:
    """One seeded fault: its patch, what it breaks, the areas that must notice, the first of them first.

    ``proof`` is the shortest demonstration that the kernel behaves otherwise; a failure's text points
    at the cause when it has one of ``clues``. A patch of others may have but ``name`` and ``file``.
    """

    name: str
    file: Path
    breaks: str = ""
    areas: tuple[str, ...] = ()
    proof: str = ""
    clues: tuple[str, ...] = ()

    def points_at(self, text: str) -> bool | None:
        """Say whether a failure's text has one of the clues; None where there are none."""
        return any(clue.lower() in text.lower() for clue in self.clues) if self.clues else None


def find(folder: Path = paths.FAULTS, pattern: str = "*") -> tuple[Fault, ...]:
    """Return the faults in a folder whose names match, by name.

    Raises UsageError when there is none.
    """
    if not folder.is_dir():
        raise UsageError(f"there is no folder {folder}", advice="give a folder of patches")
    files = sorted(file for file in folder.rglob("*") if file.suffix in {".patch", ".diff"})
    found = tuple(read(file) for file in files if fnmatchcase(file.stem, pattern))
    if not found:
        names = ", ".join(file.stem for file in files[:8])
        raise UsageError(
            f"no fault in {folder} is called {pattern}",
            advice=f"there are: {names}, ..." if names else "a fault is a file NAME.patch",
        )
    return found


def read(file: Path) -> Fault:
    """Read one fault; a patch without fields is one of which nothing is known."""
    fields = _fields(file.read_text(encoding="utf-8", errors="replace").splitlines())
    return Fault(
        file.stem,
        file,
        fields.get("Breaks", ""),
        tuple(re.findall(r"[a-z]+", fields.get("Area", "").lower())),
        fields.get("Proof", ""),
        tuple(clue.strip() for clue in fields.get("Clue", "").split(",") if clue.strip()),
    )


def _fields(lines: Sequence[str]) -> dict[str, str]:
    """Return the fields above a diff; a field goes on in lines that are indented, or commented."""
    fields: dict[str, str] = {}
    name = ""
    for line in lines:
        if line.startswith(_DIFF):
            break
        begun = _FIELD.match(line)
        if begun:
            name = begun[1] if begun[1] in FIELDS else ""
            if name:
                fields[name] = begun[2]
        elif (more := _MORE.match(line)) and name:
            fields[name] = f"{fields[name]} {more[1]}".strip()
        else:
            name = ""
    return fields


def on_top(fault: Fault, series: Path, folder: Path) -> Path:
    """Make ``folder`` a quilt series: that in the folder ``series``, and a fault's patch behind it."""
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(series, folder, ignore=shutil.ignore_patterns("README*"))
    shutil.copy(fault.file, folder / f"{fault.name}.patch")
    for quilt in folder.glob("series*"):
        with quilt.open("a", encoding="utf-8") as out:
            out.write(f"{fault.name}.patch\n")
    return folder
