# SPDX-License-Identifier: MIT
"""`mkh series`: look at a patch series, and try it on a base."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated

import msgspec
from cyclopts import App, Parameter
from rich.console import Console

from harness import paths
from harness.build import own_series, parse_base, report, source
from harness.build import series as patches
from harness.build.apply import apply_series
from harness.build.folder import kernel_version
from harness.definition import PathBase, load_definition
from harness.errors import UsageError
from harness.progress import LOG_WIDTH, Progress
from harness.report.patches import as_table, as_values

app = App(name="series", version_flags=[])


Place = Annotated[
    str,
    Parameter(help="Folder, mbox, patch, REPOSITORY:OLDER..NEWER, message-id, or a kernel definition."),
]


@app.command
def show(
    place: Place,
    /,
    *,
    json: Annotated[bool, Parameter(help="Print one JSON object.")] = False,
) -> int:
    """Show a series in order, what is missing, wrong or left out; exit status 1 if it is not whole.

    For example:

        mkh series show thread.mbox

        mkh series show ~/linux:v6.12..HEAD --json
    """
    found = patches.look(_series_of(place), Progress())
    if json:
        print(msgspec.json.encode(as_values(found)).decode())
    else:
        # A pipe has no width; 80 columns would cut paths in two.
        width = None if sys.stdout.isatty() or "COLUMNS" in os.environ else LOG_WIDTH
        Console(highlight=False, width=width).print(as_table(found))
    return 1 if found.missing or found.problems else 0


@app.command
def apply(
    place: Place,
    /,
    *,
    base: Annotated[
        str | None,
        Parameter(
            help="Linux source folder, tarball or git REPOSITORY@REVISION; a definition names its own."
        ),
    ] = None,
    fuzz: Annotated[
        int | None,
        Parameter(help="Lines of context that need not match, 0 to 3; else the definition's, or 0."),
    ] = None,
    verbose: Annotated[bool, Parameter(help="Show every patch, file and moved hunk.")] = False,
    json: Annotated[bool, Parameter(help="Print one JSON object.")] = False,
) -> int:
    """Say how each patch of a series applies to a base; exit status 1 if one does not. Builds nothing.

    For example:

        mkh series apply FOLDER --base ~/linux@v6.12 --fuzz 2
    """
    definition = load_definition(place) if _is_definition(place) else None
    bases = (parse_base(base),) if base else definition.bases if definition else ()
    if not bases:
        raise UsageError(f"{place} says nothing about a base", advice="give the source with --base")
    if fuzz is not None and not 0 <= fuzz <= 3:
        raise UsageError(f"--fuzz {fuzz} makes no sense", advice="give 0, 1, 2 or 3")
    progress = Progress()
    # A folder is only read here, so it needs no copy in the cache.
    pristine = _folder(bases[0]) if isinstance(bases[0], PathBase) else source.obtain(bases, progress)
    found = patches.read(own_series(definition, pristine.tree) if definition else place, progress)
    applied = apply_series(
        pristine, found, fuzz if fuzz is not None else definition.fuzz if definition else 0
    )
    if json:
        told = {"base": pristine.version, "applies": not applied.failed, "patches": applied.report}
        print(msgspec.json.encode(told).decode())
    else:
        print(*report.lines(applied.report, verbose=verbose), report.summary(applied.report), sep="\n")
    return 1 if applied.failed else 0


def _folder(base: PathBase) -> source.Source:
    tree = Path(base.path).expanduser().resolve()
    return source.Source("path", f"{tree} ({kernel_version(tree)})", "", tree)


def _series_of(place: str) -> str:
    """Return the place of the series that a definition names, or ``place`` when it is no definition."""
    if not _is_definition(place):
        return place
    named = load_definition(place).series
    if named is None:
        raise UsageError(f"the definition {place} names no series", advice="give the series itself")
    return named


def _is_definition(place: str) -> bool:
    return place.endswith(".toml") or (paths.KERNELS / f"{place}.toml").is_file()
