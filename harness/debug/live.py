# SPDX-License-Identifier: MIT
"""gdb and drgn on a machine that is there: QEMU's stub, its memory written to a file."""

from __future__ import annotations

from pathlib import Path

from harness import process
from harness.debug import gdb
from harness.debug.cores import Core
from harness.diagnose.images import image_of, placed
from harness.diagnose.vcpus import layout_of
from harness.errors import HarnessError, UsageError
from harness.lab import Lab
from harness.multikernel.layout import HOST
from harness.vm.ram import ram_of
from harness.vm.registers import registers_of
from harness.vm.state import State
from harness.vm.vmcore import write_vmcore

CHARDEV = "gdb-socket"
_NEEDS_VMLINUX = "take a kernel that was built here, or give its --vmlinux"


def vmlinux_of(lab: Lab, name: str) -> Path | None:
    """Return the vmlinux of a kernel of ``lab``; None where nobody has it."""
    path = lab.build.vmlinux if name == HOST else lab.build.spawned_vmlinux
    return path if path.is_file() else None


class Debugging:
    """Debuggers for the machine of ``lab``, with files in this process's scratch folder."""

    def __init__(self, lab: Lab) -> None:
        self._lab = lab
        self._opened = False

    def gdb(self) -> Path:
        """Open QEMU's stub at a socket; return a script for gdb. Raises HarnessError.

        The script knows the kernels as they are now: each that starts may choose its own address (KASLR).
        """
        qmp, folder = self._lab.machine.qmp, process.scratch()
        socket = folder / f"gdb-{self._lab.machine.pid}"
        address = {"type": "unix", "data": {"path": str(socket)}}
        backend = {"type": "socket", "data": {"addr": address, "server": True, "wait": False}}
        ram = ram_of(self._lab.machine)
        kernels = [
            gdb.Kernel(
                owner.name, vmlinux, placed(image_of(self._lab, owner.name), ram, owner).offset, owner.memory
            )
            for owner in layout_of(self._lab).owners
            if (vmlinux := vmlinux_of(self._lab, owner.name)) is not None
        ]
        if not kernels:
            raise HarnessError("there are no symbols of any kernel", advice=_NEEDS_VMLINUX)
        if not self._opened:
            qmp.execute("chardev-add", id=CHARDEV, backend=backend)
            qmp.execute("human-monitor-command", command_line=f"gdbserver chardev:{CHARDEV}")
            self._opened = True
        script = folder / f"{self._lab.machine.pid}.gdb"
        script.write_text(gdb.script(kernels, f"target remote {socket}"), encoding="utf-8")
        return script

    def dump(self, kernel: str) -> tuple[Path, Path]:
        """Write a core file of one kernel's view of the memory as it is now; return it and its vmlinux."""
        machine, folder = self._lab.machine, process.scratch()
        whole, own = folder / "machine.vmcore", folder / f"{kernel}.vmcore"
        runs = machine.state is State.LIVE
        if runs:
            machine.freeze()
        try:
            write_vmcore(ram_of(machine), registers_of(machine.qmp), whole)
        finally:
            if runs and machine.ended() is None:
                machine.thaw()
        names = [owner.name for owner in layout_of(self._lab).owners]
        known = {name: vmlinux for name in names if (vmlinux := vmlinux_of(self._lab, name)) is not None}
        vmlinux = split(whole, known, kernel, own)
        whole.unlink()
        return own, vmlinux


def split(whole: Path, vmlinux: dict[str, Path], kernel: str, path: Path) -> Path:
    """Write a core file of one of a machine's kernels; return its vmlinux. Raises HarnessError."""
    with Core(whole) as core:
        found = core.kernels(vmlinux)
        hit = next((one for one in found if one.name == kernel), None)
        if hit is None:
            names = ", ".join(one.name for one in found) or "none"
            raise UsageError(
                f"there is no kernel {kernel!r} in the machine's memory",
                advice=f"found: {names}; a kernel is found by its VMCOREINFO and its host name",
            )
        core.write_for(hit, path)
        return hit.vmlinux
