# SPDX-License-Identifier: MIT
"""`mkh build` and `mkh check`: a kernel built, its patches checked."""

from __future__ import annotations

import time
from typing import Annotated

import msgspec
from cyclopts import Parameter

from harness.cli_options import (
    BaseText,
    Kernel,
    Series,
    build_of,
)
from harness.progress import Progress


def build(
    kernel: Kernel = "reference",
    *,
    series: Series = None,
    base: BaseText = None,
    refresh: Annotated[bool, Parameter(help="Look for newer source than was fetched before.")] = False,
    each: Annotated[
        bool,
        Parameter(
            help="Build after every patch in turn, and name the first that breaks the build; stores nothing."
        ),
    ] = False,
    json: Annotated[bool, Parameter(help="Print one JSON object about the build.")] = False,
) -> int:
    """Build a kernel definition, or find it in the store; print the folder with its bzImage and vmlinux.

    For example:

        mkh build rfc-v1 --series FOLDER --base ~/linux@v6.12 --json

        mkh build rfc-v1 --series FOLDER --each
    """
    started = time.perf_counter()
    if each:
        return _build_each(kernel, series, base, json)
    built = build_of(kernel, series, base, Progress(), refresh=refresh)
    if not json:
        print(built.folder)
        return 0
    told = {
        "definition": built.definition.name,
        "digest": built.digest,
        "image": str(built.bzimage),
        "vmlinux": str(built.vmlinux),
        "initrd": str(built.initrd),
        "host_initrd": str(built.host_initrd),
        "version": built.version,
        "spawned_version": built.spawned_version,
        "source": built.source,
        "seconds": round(time.perf_counter() - started, 3),
        "reused": built.reused,
        "apply_report": built.apply_report,
    }
    print(msgspec.json.encode(told).decode())
    return 0


def _build_each(kernel: str, series: str | None, base: str | None, json: bool) -> int:
    from harness.build import parse_base
    from harness.build.each import build_each
    from harness.definition import load_definition

    given = parse_base(base) if base else None
    built = build_each(load_definition(kernel), Progress(), series=series, base=given)
    if json:
        print(msgspec.json.encode(built).decode())
    else:
        print(f"{len(built) - 1} patches, and the kernel builds after each of them")
    return 0


def check(
    kernel: Kernel = "reference",
    *,
    series: Series = None,
    base: BaseText = None,
    sparse: Annotated[
        bool, Parameter(negative="", help="Only sparse, over the C files that the series touches.")
    ] = False,
    checkpatch: Annotated[bool, Parameter(negative="", help="Only checkpatch, over the patches.")] = False,
) -> int:
    """Run checkpatch and sparse over a series; print what is new, and exit with status 1 if anything is.

    For example:

        mkh check rfc-v1 --series FOLDER --sparse
    """
    from harness.build import applied_series, check
    from harness.build.source import parse_base
    from harness.definition import load_definition

    progress = Progress()
    definition = load_definition(kernel)
    applied = applied_series(definition, progress, series=series, base=parse_base(base) if base else None)
    remarks: list[check.Remark] = []
    if checkpatch or not sparse:
        remarks += check.checkpatch(applied.source.tree, applied.series.patches, progress)
    if sparse or not checkpatch:
        remarks += check.sparse(definition, applied, progress)
    for remark in remarks:
        print(remark)
    return 1 if remarks else 0
