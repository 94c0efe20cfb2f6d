# SPDX-License-Identifier: MIT
"""`mkh debug`: a kept failure looked at again, or a machine that waits, with gdb and drgn."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

if TYPE_CHECKING:
    from harness.failure import Failure


def debug(
    run: Annotated[
        str | None, Parameter(help="A kept failure, a part of its name, `last`, or a machine that waits.")
    ] = None,
    /,
    *,
    gdb: Annotated[bool, Parameter(negative="", help="Open gdb on its memory, with symbols.")] = False,
    drgn: Annotated[bool, Parameter(negative="", help="Open drgn on its memory, with symbols.")] = False,
    of: Annotated[str, Parameter(help="Whose view of it: host, or a spawned kernel.")] = "host",
) -> int:
    """Reopen a failure that was kept: why it failed, what every kernel said, its memory in gdb or drgn.

    Without a name it lists what was kept. gdb finds all kernels of a machine that waits (`mkh test
    --pause-on-fail`) in one session; of kept memory each kernel is a core file of its own.

    For example:

        mkh debug

        mkh debug last --gdb --of alpha
    """
    from harness import debugging, failure
    from harness.errors import UsageError
    from harness.tui import serve

    if gdb and drgn:
        raise UsageError("--gdb and --drgn are two debuggers", advice="give one of them")
    if run is None:
        if gdb or drgn:
            raise UsageError("there is no name of what to debug", advice="`mkh debug` lists what was kept")
        _list()
        return 0
    machine = next((one for one in serve.entries() if one.name == run), None)
    if machine is not None:
        return debugging.live(machine, of, gdb=gdb, drgn=drgn)
    kept = failure.find(run)
    if gdb or drgn:
        return debugging.kept(kept, of, "gdb" if gdb else "drgn")
    _show(kept)
    return 0


def _list() -> None:
    import time

    from harness import failure
    from harness.tui import serve

    for machine in serve.entries():
        waits = "a failed test waits" if machine.waits else "mkh console"
        print(f"{machine.name}  ({waits}, process {machine.pid})")
    kept = failure.all()
    for one in kept:
        when = time.strftime("%Y-%m-%d %H:%M", time.localtime(one.ended))
        memory = "" if one.memory else "  (no memory kept)"
        print(f"{one.name}\n    {when}  {one.kernel}  {_line(one.why)}{memory}")
    if not kept:
        print(f"no failure is kept in {failure.folder()}")


def _line(text: str) -> str:
    from harness.tui.screen import plain

    lines = plain(text.encode("utf-8", "replace")).splitlines()
    return lines[0][:150] if lines else ""


def _show(kept: Failure) -> None:
    """Print the explanation, the consoles' ends, the vCPUs, and the commands that go on from there."""
    from harness import failure
    from harness.tui.screen import plain

    def safe(text: str) -> str:
        return plain(text.encode("utf-8", "replace")).rstrip()

    print(safe(kept.explanation or kept.text(failure.EXPLANATION) or kept.why))
    # All registers are in the file; where each vCPU was is enough here.
    vcpus = [line for line in safe(kept.text(failure.VCPUS)).splitlines() if "RAX=" not in line]
    if any(line not in safe(kept.explanation) for line in vcpus):
        print("\n".join(["", "vCPUs", *vcpus]))
    print(f"\nEverything is in {kept.folder}:")
    for file in sorted(Path(kept.folder).iterdir()):
        print(f"  {file.name:<24} {file.stat().st_size:>12,} bytes")
    print("\nCommands")
    commands = dict(kept.commands)
    if kept.memory is not None:
        for kernel in kept.kernels:
            if kernel.vmlinux and kept.console(kernel.name):
                commands[f"gdb on {kernel.name}"] = f"mkh debug {kept.name} --gdb --of {kernel.name}"
                commands[f"drgn on {kernel.name}"] = f"mkh debug {kept.name} --drgn --of {kernel.name}"
    for what, command in commands.items():
        print(f"  {what + ':':<16} {command}")
