# SPDX-License-Identifier: MIT
"""Options that several commands have, and what commands make of them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Parameter

from harness import paths
from harness.progress import Progress

if TYPE_CHECKING:
    from harness.build import Build


def _names(folder: Path) -> list[str]:
    return sorted(file.stem for file in folder.glob("*.toml") if not file.stem.endswith(".known"))


def _definitions(context: object) -> list[str]:
    return _names(paths.KERNELS)


def _topologies(context: object) -> list[str]:
    return _names(paths.TOPOLOGIES)


Kernel = Annotated[
    str,
    Parameter(
        help="Kernel definition in kernels/, or a .toml file; +FRAGMENT adds configuration (+kasan).",
        completer=_definitions,
    ),
]
Series = Annotated[
    str | None,
    Parameter(
        help="Patches in place of the definition's: folder, mbox, REPOSITORY:OLDER..NEWER or message-id."
    ),
]
BaseText = Annotated[
    str | None,
    Parameter(help="Linux source folder, tarball or git REPOSITORY@REVISION, in place of the definition's."),
]
TopologyName = Annotated[
    str | None,
    Parameter(help="Topology in kernels/topologies/, in place of the definition's.", completer=_topologies),
]
Image = Annotated[Path | None, Parameter(help="Image built elsewhere (a bzImage), in place of a definition.")]
Vmlinux = Annotated[Path | None, Parameter(help="That image's vmlinux, for symbols.")]
DialectName = Annotated[
    str | None, Parameter(help="How that image is driven, where it does not tell by itself.")
]
AccelName = Annotated[Literal["auto", "kvm", "tcg"], Parameter(help="How QEMU runs the guest.")]


def build_of(
    kernel: str, series: str | None, base: str | None, progress: Progress, *, refresh: bool = False
) -> Build:
    """Build the kernel that the options name, or find it in the store."""
    from harness.build import build
    from harness.build.source import parse_base
    from harness.definition import load_definition

    definition = load_definition(kernel)
    return build(
        definition, progress, series=series, base=parse_base(base) if base else None, refresh=refresh
    )


def chosen_words(
    built: Build,
    kernel: str,
    *,
    series: str | None,
    base: str | None,
    bzimage: Path | None,
    vmlinux: Path | None,
) -> list[str]:
    """Return the options of pytest that choose the same kernel."""
    if bzimage is None:
        given = {"--kernel": kernel, "--series": series, "--base": base}
    else:
        given = {"--kernel": built.definition.name, "--bzimage": str(bzimage)}
        given |= {"--vmlinux": str(vmlinux) if vmlinux else None, "--dialect": built.definition.dialect}
    return [word for option, value in given.items() if value for word in (option, value)]
