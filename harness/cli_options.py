# SPDX-License-Identifier: MIT
"""Options that several commands have, and what commands make of them."""

from __future__ import annotations

from dataclasses import dataclass
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


@Parameter(name="*", help="Which kernel.")
@dataclass(frozen=True, kw_only=True)
class Chosen:
    """The kernel that a command is for: one that is built, or an image built elsewhere."""

    kernel: Kernel = "reference"
    series: Series = None
    base: BaseText = None
    bzimage: Image = None
    vmlinux: Vmlinux = None
    dialect: DialectName = None

    def build(self, progress: Progress) -> Build:
        """Build it, or find it in the store."""
        if self.bzimage is None:
            return build_of(self.kernel, self.series, self.base, progress)
        from harness.build.own import own_build

        return own_build(self.bzimage, self.vmlinux, self.dialect, progress)

    def words(self, built: Build) -> list[str]:
        """Return the options of pytest that choose the same kernel."""
        if self.bzimage is None:
            given = {"--kernel": self.kernel, "--series": self.series, "--base": self.base}
        else:
            given = {"--kernel": built.definition.name, "--bzimage": str(self.bzimage)}
            vmlinux = str(self.vmlinux) if self.vmlinux else None
            given |= {"--vmlinux": vmlinux, "--dialect": built.definition.dialect}
        return [word for option, value in given.items() if value for word in (option, value)]


CHOSEN = Chosen()
"""What is chosen by no option."""
