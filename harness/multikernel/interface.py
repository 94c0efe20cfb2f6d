# SPDX-License-Identifier: MIT
"""A host kernel's multikernel interface, one system call at a time, with whatever arguments.

For generations whose instances have ids (v2, reference). Every method returns what became of the
call; nothing is raised when the kernel refuses. ``..._call`` gives the same call as text, for races.
"""

from __future__ import annotations

from dataclasses import dataclass

from harness.definition import SpawnedKernel
from harness.errors import HarnessError
from harness.model import Region
from harness.multikernel import calls
from harness.multikernel.calls import Outcome
from harness.multikernel.devicetree import instances_blob
from harness.multikernel.kernel import Kernel
from harness.multikernel.kimage import Image, parse_kimage

MOUNT = "/sys/fs/multikernel"
MAGIC1, MAGIC2 = 0xFEE1DEAD, 672274793
"""The first two arguments of reboot(2)."""
UNLOAD, NO_INITRAMFS = 0x1, 0x4
"""Flags of kexec_file_load(2)."""
LOAD_LIMIT = 60.0
"""Seconds that a call has which fills or clears an instance's memory, or waits for its CPUs, before
scaling by the accelerator."""


@dataclass(frozen=True)
class Numbers:
    """One generation's constants. ``halt`` and ``force`` are None where a kernel cannot be stopped.

    ``loaded`` is the state of an instance that has an image and does not run.
    """

    load_flag: int
    id_shift: int
    start: int
    halt: int | None = None
    force: int | None = None
    loaded: str = "loaded"


def mount(host: Kernel) -> None:
    """Mount the multikernel file system where it belongs, unless it is mounted."""
    host.run(f"grep -q ' {MOUNT} ' /proc/mounts || mount -t multikernel none {MOUNT}")


class Interface:
    """The calls of one host kernel. Instances have the ids and names of the device trees written."""

    def __init__(self, host: Kernel, numbers: Numbers) -> None:
        self.host = host
        self.numbers = numbers

    def mount(self) -> None:
        """Mount the multikernel file system where it belongs."""
        mount(self.host)

    def call(self, line: str, *, limit: float = calls.LIMIT) -> Outcome:
        """Make any call."""
        return calls.call(self.host, line, limit=limit)

    def write_tree(self, blob: bytes) -> Outcome:
        """Write a device tree blob in one write(2)."""
        self.host.channel.put("/run/tree.dtb", blob)
        return self.call(self.write_tree_call("/run/tree.dtb"))

    def write_tree_call(self, file: str) -> str:
        """Return the call that writes the blob in the guest's ``file``."""
        return f"write fdw:{MOUNT}/device_tree file:{file} size:{file}"

    def create(self, *kernels: SpawnedKernel) -> Outcome:
        """Create an instance for each of the kernels, by one device tree."""
        return self.write_tree(instances_blob(kernels))

    def remove(self, name: str) -> Outcome:
        """Remove an instance."""
        return self.call(self.remove_call(name), limit=LOAD_LIMIT)

    def remove_call(self, name: str) -> str:
        """Return the call that removes an instance."""
        return f"rmdir {calls.text(f'{MOUNT}/instances/{name}')}"

    def load(
        self,
        id: int,
        *,
        image: str = "/boot/bzImage",
        initrd: str | None = None,
        arguments: str = "",
        flags: int = 0,
    ) -> Outcome:
        """Load the guest's file ``image`` into an instance; ``flags`` are set in addition."""
        line = self.load_call(id, image=image, initrd=initrd, arguments=arguments, flags=flags)
        return self.call(line, limit=LOAD_LIMIT)

    def load_call(
        self,
        id: int,
        *,
        image: str = "/boot/bzImage",
        initrd: str | None = None,
        arguments: str = "",
        flags: int = 0,
    ) -> str:
        """Return the call that loads a kernel."""
        flags |= self.flags(id) | (NO_INITRAMFS if initrd is None else 0)
        ramdisk = "-1" if initrd is None else f"fd:{initrd}"
        size = len(arguments.encode()) + 1
        return f"kexec_file_load fd:{image} {ramdisk} {size} {calls.text(arguments)} {flags:#x}"

    def unload(self, id: int) -> Outcome:
        """Unload an instance's image."""
        return self.call(self.unload_call(id))

    def unload_call(self, id: int) -> str:
        """Return the call that unloads an image."""
        return f"kexec_file_load -1 -1 0 null {self.flags(id) | UNLOAD:#x}"

    def flags(self, id: int) -> int:
        """Return the flags of kexec_file_load(2) that name an instance."""
        return self.numbers.load_flag | id << self.numbers.id_shift

    def start(self, id: int) -> Outcome:
        """Start an instance's kernel."""
        return self.call(self.reboot_call(self.numbers.start, id), limit=LOAD_LIMIT)

    def halt(self, id: int, *, limit: float = 40.0) -> Outcome:
        """Ask an instance's kernel to stop, and wait until it has; the reference waits for 30 s at most."""
        assert self.numbers.halt is not None
        return self.call(self.reboot_call(self.numbers.halt, id), limit=limit)

    def force(self, id: int) -> Outcome:
        """Stop an instance's kernel without asking it."""
        assert self.numbers.force is not None
        return self.call(self.reboot_call(self.numbers.force, id), limit=LOAD_LIMIT)

    def reboot_call(self, command: int, id: int) -> str:
        """Return the call of reboot(2) with a command and an instance's id."""
        return f"reboot {MAGIC1:#x} {MAGIC2} {command:#x} i32:{id}"

    def state(self, name: str) -> str:
        """Return what an instance's ``status`` says; empty when there is none."""
        return self.host.run(f"cat {MOUNT}/instances/{name}/status 2>/dev/null || true")

    def images(self) -> tuple[Image, ...]:
        """Return what /proc/kimage lists."""
        return parse_kimage(self.host.read("/proc/kimage"))

    def region(self, name: str) -> Region:
        """Return the memory of an instance, as /proc/iomem names it."""
        found = [r.region for r in self.host.iomem() if f"-{name}-region-" in r.name]
        if len(found) != 1:
            raise HarnessError(f"/proc/iomem should name one region of {name}, not {len(found)}")
        return found[0]

    def names(self) -> list[str]:
        """Return the names of all instances, sorted."""
        return sorted(self.host.run(f"ls {MOUNT}/instances").split())
