# SPDX-License-Identifier: MIT
"""Which build each kernel of a machine is, and the names of its addresses: vmlinux, its modules."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path

from harness.build import store
from harness.diagnose.orc import Orc
from harness.errors import HarnessError
from harness.klog.symbols import Symbols
from harness.lab import Lab
from harness.model import Owner
from harness.multikernel.layout import HOST
from harness.vm.ram import Ram, ram_of
from harness.vm.vmcore import find_vmcoreinfo

KERNEL = 0xFFFF_FFFF_8000_0000
MODULES_END = 0xFFFF_FFFF_FF00_0000
"""Between these are a kernel's code and that of its modules. Source: Documentation/arch/x86/x86_64/mm.rst."""
_NOKASLR = (
    "It chose that address itself (KASLR); nokaslr keeps it where it was built for: write"
    ' arguments = ["nokaslr"] into a copy of the topology, and give that file to --topology.'
)
_OFFSET = re.compile(rb"^KERNELOFFSET=([0-9a-f]+)$", re.MULTILINE)


@dataclass(frozen=True)
class Image:
    """A kernel's build: ``folder`` in the store, ``vmlinux``, the archive that has its modules.

    ``offset`` is how far from vmlinux' addresses its code is (KASLR).
    """

    kernel: str
    vmlinux: Path
    digest: str
    release: str
    definition: str
    initrd: Path
    offset: int = 0

    @cached_property
    def symbols(self) -> Symbols | None:
        """Its symbols, None where its vmlinux is not at hand."""
        return _symbols(self.vmlinux)

    @cached_property
    def orc(self) -> Orc | None:
        """What its stacks are unwound with."""
        return _orc(self.vmlinux)

    @cached_property
    def text(self) -> tuple[int, int]:
        """Where its code begins and ends, (0, 0) where that is not known."""
        bounds = [self.symbols.address(name) if self.symbols else None for name in ("_text", "_etext")]
        start, end = bounds
        return (start + self.offset, end + self.offset) if start and end else (0, 0)

    @property
    def relocated(self) -> bool:
        """Whether its configuration lets it choose its address; where that is not known, it may."""
        try:
            config = (self.vmlinux.parent / "config").read_bytes()
        except OSError:
            return True
        return b"CONFIG_RANDOMIZE_BASE=y" in config or b"CONFIG_64BIT=y" not in config


@cache
def _symbols(vmlinux: Path) -> Symbols | None:
    try:
        return Symbols(vmlinux)
    except HarnessError:
        return None


@cache
def _orc(vmlinux: Path) -> Orc | None:
    try:
        return Orc(vmlinux)
    except Exception:
        # Whatever a damaged file brings about, without its tables stacks are guessed.
        return None


def image_of(lab: Lab, kernel: str) -> Image:
    """Return the build that ``kernel`` is: a spawned one may be of another than its host."""
    build = lab.build
    if kernel == HOST or build.definition.spawned_kernel is None:
        return Image(kernel, build.vmlinux, build.digest, build.version, build.definition.name, build.initrd)
    digest = store.read_meta(build.folder).inputs.get("spawned kernel", "")
    entry = store.folder() / digest
    release, name = build.spawned_version, build.definition.spawned_kernel
    return Image(kernel, entry / "vmlinux", digest, release, name, entry / "initrd.cpio")


def placed(image: Image, ram: Ram, owner: Owner) -> Image:
    """Return the image with its offset, where the kernel in ``owner``'s memory chose its own address."""
    if not image.relocated:
        return image
    for info in find_vmcoreinfo(ram, owner.memory):
        found = _OFFSET.search(info.text)
        if found is not None:
            from dataclasses import replace

            return replace(image, offset=int(found[1], 16))
    return image


def in_pool(lab: Lab) -> str:
    """Say so where the host's kernel is inside the pool, which it then does not have; else nothing."""
    image, pool = image_of(lab, HOST), lab.topology.pool.region
    link = image.symbols.address("_text") if image.symbols is not None else None
    if lab.pairs or not lab.dialect.pooled or link is None:
        return ""
    for info in find_vmcoreinfo(ram_of(lab.machine)):
        chosen = _OFFSET.search(info.text)
        moved = int(chosen[1], 16) if chosen else 0
        at = link + moved - KERNEL + (info.phys_base or 0)
        if pool.start <= at < pool.end:
            found = f"The host's kernel is at {at:#x}, inside the pool ({pool}), so it has no pool."
            return f"{found} {_NOKASLR}" if moved else found
    return ""
