# SPDX-License-Identifier: MIT
"""`mkh selfcheck`: judge the suite by faults that were seeded into the kernel."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import msgspec
from cyclopts import Parameter

from harness import paths
from harness.progress import Progress


def selfcheck(
    *,
    faults: Annotated[str, Parameter(help="Only the faults with such names (memory-*).")] = "*",
    faults_from: Annotated[Path, Parameter(help="Folder of patches, each one fault.")] = paths.FAULTS,
    kernel: Annotated[
        str, Parameter(help="Definition with the series that they go on top of.")
    ] = "reference",
    whole: Annotated[
        bool, Parameter(negative="", help="Try the areas that a fault does not name, too.")
    ] = False,
    anew: Annotated[bool, Parameter(negative="", help="Judge those again that were caught before.")] = False,
    json: Annotated[bool, Parameter(help="End with one JSON object of the verdicts.")] = False,
) -> int:
    """Build the kernel with one fault after another; say which claim notices each, and how fast.

    Verdicts are kept: a fault that was caught on the same build is not run again.

    For example:

        mkh selfcheck --faults 'memory-*'
    """
    from rich.console import Console as Display

    from harness import seeded
    from harness import selfcheck as checking
    from harness.definition import load_definition
    from harness.report import selfcheck as report

    progress = Progress()
    chosen = seeded.find(faults_from, faults)
    verdicts = list(checking.run(load_definition(kernel), chosen, progress, whole=whole, anew=anew))
    if json:
        print(msgspec.json.encode(report.as_values(verdicts)).decode())
    else:
        Display(width=None if sys.stdout.isatty() else 160).print(report.table(verdicts))
    progress.console.print(report.summary(verdicts), markup=False)
    return 0 if all(verdict.caught_by for verdict in verdicts) else 1
