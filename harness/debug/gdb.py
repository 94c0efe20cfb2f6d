# SPDX-License-Identifier: MIT
"""Scripts for gdb: all kernels of a machine, each with its own vmlinux at its own address."""

from __future__ import annotations

import json
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from harness.model import Region

IN_GDB = Path(__file__).with_name("in_gdb.py")


@dataclass(frozen=True)
class Kernel:
    """A kernel as gdb is told of it: ``offset`` is how far from vmlinux' addresses it is.

    ``memory`` is the physical memory that is its own, empty where nothing else is in view.
    """

    name: str
    vmlinux: Path
    offset: int = 0
    memory: tuple[Region, ...] = ()


def script(kernels: Sequence[Kernel], target: str) -> str:
    """Return a script for `gdb -x`: the first kernel's symbols, and ``target``, a command of gdb."""
    known = [
        {
            "name": one.name,
            "vmlinux": str(one.vmlinux),
            "offset": one.offset,
            "memory": [[part.start, part.end] for part in one.memory],
        }
        for one in kernels
    ]
    first = kernels[0]
    lines = [
        "# Made by mkharness. kernels: what each vCPU runs; kernel NAME: that kernel's symbols and vCPU.",
        "set confirm off",
        "set pagination off",
        "set architecture i386:x86-64",
        f"symbol-file -o {first.offset:#x} {first.vmlinux}",
        f"python mkh_kernels = {json.dumps(known)}",
        f"source {IN_GDB}",
        target,
    ]
    return "\n".join(lines) + "\n"


def command(file: Path) -> str:
    """Return the command line that runs a script."""
    return shlex.join(["gdb", "-nx", "-q", "-x", str(file)])
