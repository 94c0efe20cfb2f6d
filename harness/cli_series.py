# SPDX-License-Identifier: MIT
"""`mkh series`: look at a patch series."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated

import msgspec
from cyclopts import App, Parameter
from rich.console import Console

from harness import paths
from harness.build import series as patches
from harness.definition import load_definition
from harness.errors import UsageError
from harness.progress import LOG_WIDTH, Progress
from harness.report.patches import as_table, as_values

app = App(name="series", help="Look at a patch series.", version_flags=[])


@app.command
def show(
    place: Annotated[
        str,
        Parameter(help="Folder, mbox, patch, REPOSITORY:OLDER..NEWER, message-id, or a kernel definition."),
    ],
    /,
    *,
    json: Annotated[bool, Parameter(help="Print one JSON object.")] = False,
) -> int:
    """Show a series in order, what is missing, wrong or left out; exit status 1 if it is not whole."""
    found = patches.look(_series_of(place), Progress())
    if json:
        print(msgspec.json.encode(as_values(found)).decode())
    else:
        # A pipe has no width; 80 columns would cut paths in two.
        width = None if sys.stdout.isatty() or "COLUMNS" in os.environ else LOG_WIDTH
        Console(highlight=False, width=width).print(as_table(found))
    return 1 if found.missing or found.problems else 0


def _series_of(place: str) -> str | Path:
    """Return the place of the series that a definition names, or ``place`` when it is no definition."""
    if not place.endswith(".toml") and not (paths.KERNELS / f"{place}.toml").is_file():
        return place
    named = load_definition(place).series
    if named is None:
        raise UsageError(f"the definition {place} names no series", advice="give the series itself")
    return patches.located(named, paths.KERNELS)
