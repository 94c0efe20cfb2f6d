# SPDX-License-Identifier: MIT
"""The host kernel replaced by kexec while its machine goes on, and what is between the kernels."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

from harness.errors import HarnessError
from harness.klog.symbols import Symbols
from harness.lab import BOOT_TIMEOUT, Lab
from harness.vm.console import printed
from harness.vm.gdbstub import attached
from harness.vm.ram import Ram, ram_of

REBOOT_CMD_KEXEC = 0x45584543
LAST_STEP = "machine_kexec"
"""The function of a kernel that jumps to its successor: no other CPU runs, nothing is written any more."""
INITRD = "/boot/initrd"
NEXT = "/run/next-initrd"
LEAVING: list[Callable[[Ram], object]] = []
"""Called with a machine's memory just before its host kernel is replaced, and its memory used by the next."""


def load(lab: Lab, *, initrd: str = INITRD, change: Mapping[str, str | None] | None = None) -> None:
    """Load the host's own kernel as its successor, with its own command line.

    ``change`` gives other values to words of that: ``{"kho": "off"}``; "" to one without a value, None
    leaves it out.
    """
    words = lab.host.read("/proc/cmdline").split()
    for key, value in (change or {}).items():
        words = [word for word in words if word.partition("=")[0] != key]
        if value is not None:
            words.append(f"{key}={value}" if value else key)
    lab.host.run(f"mkctl load-file /boot/bzImage {initrd} {shlex.quote(' '.join(words))} 0", timeout=30)


def pack_for_more(lab: Lab) -> str:
    """Make a user space with what can be loaded in it, for the successor to load; return its path."""
    lab.host.run(f"cd / && find boot | cpio -o -H newc 2>/dev/null | cat {INITRD} - >{NEXT}", timeout=30)
    return NEXT


def go(lab: Lab) -> None:
    """Let the successor that was loaded take over; it is under way when this returns."""
    for look in LEAVING:
        look(ram_of(lab.machine))
    lab.host.later(f"exec mkctl multikernel {REBOOT_CMD_KEXEC:#x} 0")


def await_successor(lab: Lab) -> None:
    """Wait until the successor's user space is up and takes commands."""
    lab.host.console.expect(printed("mkh: user space is up on host"), timeout=BOOT_TIMEOUT)
    lab.host.channel.wait_ready(BOOT_TIMEOUT)


def kexec(lab: Lab, *, initrd: str = INITRD, change: Mapping[str, str | None] | None = None) -> None:
    """Replace the host kernel by itself."""
    load(lab, initrd=initrd, change=change)
    go(lab)
    await_successor(lab)


@contextmanager
def between_kernels(lab: Lab) -> Iterator[Ram]:
    """Let the successor that was loaded take over, and stop the machine at the jump while the block runs.

    Yields the memory as the predecessor leaves it. Raises HarnessError when it does not get there.
    """
    address = Symbols(lab.build.vmlinux).address(LAST_STEP)
    if address is None:
        raise HarnessError(f"{lab.build.vmlinux} has no function {LAST_STEP}")
    with attached(lab.machine) as gdb:
        gdb.watch(address, 1, "execute")
        gdb.run()
        go(lab)
        gdb.wait(BOOT_TIMEOUT * lab.accel.factor)
        ram = ram_of(lab.machine)
        for look in LEAVING:
            look(ram)
        yield ram
