# SPDX-License-Identifier: MIT
"""gdb or drgn started on a kept failure's memory, or on a machine that waits."""

from __future__ import annotations

import importlib.util
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Literal

from harness import process
from harness.debug import gdb
from harness.debug.cores import Core
from harness.errors import HarnessError, UsageError
from harness.failure import Failure
from harness.tui.remote import RemoteSource
from harness.tui.serve import Entry

Tool = Literal["gdb", "drgn"]
STILL = (
    "drgn sees the memory as it was written just now or when it was kept, all kernels standing still: what\n"
    "they do since changes nothing here. A FaultError is an address that is not mapped, or was never written."
)
"""Said before drgn starts."""


def kept(failure: Failure, of: str, tool: Tool) -> int:
    """Run a debugger on one kernel of a kept failure; return its exit status. Raises HarnessError."""
    require(tool)
    if failure.memory is None:
        raise UsageError(
            f"of {failure.name} no memory was kept",
            details=failure.text("memory.txt"),
            advice=f"its console is in {failure.folder}; repeat it with --pause-on-fail to look at it live",
        )
    own, vmlinux = process.scratch() / f"{of}.vmcore", {}
    for kernel in failure.kernels:
        if kernel.vmlinux and Path(kernel.vmlinux).is_file():
            vmlinux[kernel.name] = Path(kernel.vmlinux)
    if not vmlinux:
        raise HarnessError(
            "the builds that it ran are not in the store any more, so there are no symbols",
            advice=f"build the same again: {failure.commands.get('repeat it', 'mkh build')}",
        )
    with Core(failure.memory) as core:
        found = {one.name: one for one in core.kernels(vmlinux)}
        if of not in found:
            raise UsageError(
                f"there is no kernel {of!r} in the memory that was kept",
                advice=f"found: {', '.join(found) or 'none'}; give one of these to --of",
            )
        core.write_for(found[of], own)
    if tool == "drgn":
        return _drgn(own, found[of].vmlinux)
    script = own.with_suffix(".gdb")
    known = gdb.Kernel(of, found[of].vmlinux, found[of].offset)
    script.write_text(gdb.script([known], f"core-file {own}"), encoding="utf-8")
    return _run(gdb.command(script))


def live(machine: Entry, of: str, *, gdb: bool, drgn: bool) -> int:
    """Run a debugger on a machine of another process, or tell how; return its exit status."""
    with RemoteSource(machine) as source:
        if not gdb and not drgn:
            print(source.ask("attach"))
            return 0
        require("gdb" if gdb else "drgn")
        if drgn:
            core, vmlinux = source.ask("dump", of).splitlines()
            return _drgn(Path(core), Path(vmlinux))
        from harness.debug.gdb import command

        return _run(command(Path(source.ask("gdb"))))


def require(tool: Tool) -> None:
    """Raise HarnessError, with the command that mends it, where a debugger is not installed."""
    if tool == "gdb" and shutil.which("gdb") is None:
        raise HarnessError("gdb is not installed", advice="run: sudo apt-get install gdb")
    if tool == "drgn" and importlib.util.find_spec("drgn") is None:
        raise HarnessError("drgn is not installed", advice=f"run: {sys.executable} -m pip install drgn")


def _drgn(core: Path, vmlinux: Path) -> int:
    if not has_types(vmlinux):
        raise UsageError(
            f"{vmlinux} has no debug information, which drgn needs for its types",
            advice="repeat it on a kernel that has: --kernel NAME+debug-info; gdb works without (--gdb)",
        )
    print(STILL, flush=True)
    return _run(shlex.join([sys.executable, "-m", "drgn", "-c", str(core), "-s", str(vmlinux)]))


def has_types(vmlinux: Path) -> bool:
    """Say whether a vmlinux was built with debug information."""
    from elftools.elf.elffile import ELFFile

    with vmlinux.open("rb") as file:
        return ELFFile(file).get_section_by_name(".debug_info") is not None


def _run(command: str) -> int:
    print(command, flush=True)
    # Ctrl-C is the debugger's.
    from harness import interrupt

    with interrupt.ignored():
        return subprocess.run(shlex.split(command), check=False).returncode
