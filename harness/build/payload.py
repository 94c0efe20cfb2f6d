# SPDX-License-Identifier: MIT
"""The payload: what is spawned in place of a kernel, compiled from ``initramfs/payload``."""

from __future__ import annotations

import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

from harness import paths
from harness.build import initramfs

CFLAGS = (
    *("-Os", "-Wall", "-Wextra", "-ffreestanding", "-nostdlib", "-static-pie", "-fPIE"),
    # Interrupts come on the one stack that there is, and nobody saves more than the general registers.
    *("-mno-red-zone", "-mgeneral-regs-only", "-fno-stack-protector", "-fcf-protection=none"),
    *("-fno-asynchronous-unwind-tables", "-Wl,--build-id=none"),
)
"""How it is compiled: it runs without a kernel, wherever it was loaded."""


def sources() -> tuple[Path, ...]:
    """Return its source files, headers and linker script included."""
    folder = paths.INITRAMFS / "payload"
    return tuple(sorted(file for file in folder.glob("*") if file.suffix in (".c", ".h", ".S", ".lds")))


def payload(compiler: str) -> bytes:
    """Return what ``compile_payload`` gives of the sources, and keep it for the next build."""
    found = sources()
    return initramfs.kept("payload", found, (compiler, *CFLAGS), lambda: compile_payload(found))


def compile_payload(sources: Sequence[Path]) -> bytes:
    """Compile it: a file that loaders take for a bzImage, or for ELF.

    Raises HarnessError with gcc's messages.
    """
    units = [str(source) for source in sources if source.suffix in (".c", ".S")]
    script = [f"-Wl,-T,{source}" for source in sources if source.suffix == ".lds"]
    with tempfile.TemporaryDirectory() as folder:
        linked, flat = Path(folder) / "payload.elf", Path(folder) / "payload"
        initramfs.gcc("payload", [*CFLAGS, *script, "-o", str(linked), *units])
        subprocess.run(["objcopy", "-O", "binary", str(linked), str(flat)], check=True, capture_output=True)
        return flat.read_bytes()
