# SPDX-License-Identifier: MIT
"""What the guests' user space of a build is made from."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence

from harness import paths
from harness.build import extra, initramfs, payload
from harness.build.inputs import digest_of_bytes
from harness.definition import Definition


def guest_inputs(
    definition: Definition, busybox: bytes, more: Mapping[str, extra.File], archives: Sequence[bytes]
) -> dict[str, str]:
    """Return a digest of everything that goes into the guests' user space, under a name for people."""
    sources = [paths.INITRAMFS / "init.j2", *payload.sources()]
    for tool in initramfs.tool_sources().values():
        sources += tool
    for name in definition.modules:
        module = paths.INITRAMFS / "modules" / name
        sources += sorted(
            f for f in module.glob("*") if f.suffix in (".c", ".h", ".S") or f.name in ("Kbuild", "Makefile")
        )
    return {
        "dialect": definition.dialect,
        "guest modules": " ".join(definition.modules),
        # The guests' programs are linked with it.
        "C library": os.confstr("CS_GNU_LIBC_VERSION") or "",
        "guest flags": " ".join((*initramfs.CFLAGS, *payload.CFLAGS)),
        "busybox": digest_of_bytes(busybox),
        **{
            f"initramfs/{file.relative_to(paths.INITRAMFS)}": digest_of_bytes(file.read_bytes())
            for file in sources
            if file.is_file()
        },
        **{
            f"guest file {place}": f"{file.mode:o} {digest_of_bytes(file.content)}"
            for place, file in more.items()
        },
        **{f"host archive {at}": digest_of_bytes(archive) for at, archive in enumerate(archives)},
    }
