# SPDX-License-Identifier: MIT
"""How a Linux is made to fail: by its own user space, by the guest module mkfault, or from outside.

FAULTS["stack overflow"].prepare(kernel)
with provoked(machine, kernel, vcpus, FAULTS["stack overflow"]) as at:
    ...                              # it has happened; one from outside that lasts, lasts until here
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Literal

from harness.errors import HarnessError
from harness.multikernel.kernel import LATER, Kernel
from harness.vm import inject
from harness.vm.gdbstub import attached
from harness.vm.machine import Machine

MODULE = "/lib/modules/mkfault.ko"
LIMIT = 30.0
"""Seconds until a kernel says that it fails, before scaling; a stall takes three to be told."""
SILENT = LATER + 0.5
"""Seconds until a command that says nothing has brought its fault about."""

Ends = Literal["failed", "stopped", "stuck", "lives"]
"""What becomes of a spawned kernel: it panics and tells its host; stops as it was asked to, and tells; does
nothing any more and tells nobody; goes on."""
Outside = Callable[[Machine, Kernel, Sequence[int]], AbstractContextManager[object]]


@dataclass(frozen=True)
class Fault:
    """One way to fail. ``settings`` are files and what is written to them before.

    ``command`` in the kernel or ``outside`` brings it about; ``says`` is what it prints then, a
    regular expression, and empty where it prints nothing. ``needs`` are capabilities that this takes.
    """

    ends: Ends
    command: str = ""
    says: str = ""
    settings: tuple[tuple[str, str], ...] = ()
    outside: Outside | None = None
    needs: tuple[str, ...] = ()

    def prepare(self, kernel: Kernel) -> None:
        """Do what can be done before; the kernel is as it was."""
        lines = [f"test -e /proc/mkfault || insmod {MODULE}"] if "/proc/mkfault" in self.command else []
        lines += [f"echo {value} >{file}" for file, value in self.settings]
        if lines:
            kernel.run("; ".join(lines))


@contextmanager
def provoked(machine: Machine, kernel: Kernel, vcpus: Sequence[int], fault: Fault) -> Iterator[float]:
    """Make a kernel on these vCPUs fail; yield the moment at which it said so, or was made to.

    Its splats are expected meanwhile. Raises HarnessError when it does not say what it should.
    """
    console = kernel.console
    mark = console.mark
    with console.expected(".", required=False), _brought_about(machine, kernel, vcpus, fault):
        limit = time.monotonic() + LIMIT * kernel.factor
        while fault.says and not re.search(fault.says.encode(), console.transcript[mark:]):
            if machine.ended() is not None:
                break
            if time.monotonic() > limit:
                what = f"{kernel.name} does not say {fault.says!r}"
                raise HarnessError(what, details=console.tail(), timed_out=True)
            time.sleep(0.01)
        yield time.monotonic()


@contextmanager
def _brought_about(machine: Machine, kernel: Kernel, vcpus: Sequence[int], fault: Fault) -> Iterator[None]:
    if fault.outside is not None:
        with fault.outside(machine, kernel, vcpus):
            yield
        return
    kernel.later(fault.command)
    if not fault.says:
        time.sleep(SILENT)
    yield


def _module(command: str) -> str:
    return f"echo {command} >/proc/mkfault"


def _by_module(
    ends: Ends, command: str, says: str = "", *settings: tuple[str, str], needs: tuple[str, ...] = ()
) -> Fault:
    return Fault(ends, _module(command), says, settings, needs=("faults", *needs))


@contextmanager
def _nmi(machine: Machine, kernel: Kernel, vcpus: Sequence[int]) -> Iterator[None]:
    inject.nmi(machine, vcpus[0])
    yield


@contextmanager
def _machine_check(machine: Machine, kernel: Kernel, vcpus: Sequence[int]) -> Iterator[None]:
    inject.machine_check(machine, vcpus[0])
    yield


@contextmanager
def _stand_still(machine: Machine, kernel: Kernel, vcpus: Sequence[int]) -> Iterator[None]:
    with attached(machine) as gdb:
        gdb.run_all_but(*vcpus)
        yield


@contextmanager
def _one_stands_still(machine: Machine, kernel: Kernel, vcpus: Sequence[int]) -> Iterator[None]:
    with _stand_still(machine, kernel, vcpus[-1:]):
        yield


@contextmanager
def _bit(machine: Machine, kernel: Kernel, vcpus: Sequence[int]) -> Iterator[None]:
    told = kernel.run(f"test -e /proc/mkfault || insmod {MODULE}; {_module('call')}; cat /proc/mkfault")
    # Bit 62 of a pointer to a function: an address that no x86 has.
    inject.flip_bit(machine, int(told.partition("=")[2], 0) + 7, 6)
    yield


_ON_OOPS = ("/proc/sys/kernel/panic_on_oops", "1")
_ALIVE = ("/proc/sys/kernel/panic_on_oops", "0")
_NO_RESTART = ("/proc/sys/kernel/panic", "0")
_SYSRQ = ("/proc/sys/kernel/sysrq", "1")
_NMI_PANIC = ("/proc/sys/kernel/unknown_nmi_panic", "1")
_CRASH = "echo c >/proc/sysrq-trigger"
_CRASH_ON_LAST = f"taskset -c $(($(nproc) - 1)) sh -c '{_CRASH}'"
_PANIC = "Kernel panic - not syncing"
_EAT = "dd if=/dev/zero of=/dev/null bs=8G count=1"
_OVERCOMMIT = ("/proc/sys/vm/overcommit_memory", "1")
_STALL = ("/sys/module/rcupdate/parameters/rcu_cpu_stall_timeout", "3")

FAULTS: dict[str, Fault] = {
    "NULL in a task": _by_module("lives", "null", "NULL pointer dereference", _ALIVE),
    "NULL in a task, panic": _by_module("failed", "null", _PANIC, _ON_OOPS),
    "NULL in an interrupt": _by_module("failed", "null-irq", _PANIC),
    "BUG in a task": _by_module("lives", "bug", "kernel BUG at", _ALIVE),
    "BUG in an interrupt": _by_module("failed", "bug-irq", _PANIC),
    "stack overflow": _by_module("failed", "stack", _PANIC, _ON_OOPS),
    "panic": Fault("failed", _CRASH, _PANIC, (_SYSRQ,)),
    # A kernel's first CPU is the one that its host started, and the one on which an orderly stop ends.
    "panic on the last CPU": Fault("failed", _CRASH_ON_LAST, _PANIC, (_SYSRQ,), needs=("cpus",)),
    "panic=0": Fault("stuck", _CRASH, _PANIC, (_SYSRQ, _NO_RESTART)),
    "out of memory": Fault("lives", _EAT, "Out of memory: Killed", (_OVERCOMMIT,)),
    "out of memory, panic": Fault("failed", _EAT, _PANIC, (_OVERCOMMIT, ("/proc/sys/vm/panic_on_oom", "2"))),
    "soft lock-up": _by_module("stuck", "spin"),
    # It takes another CPU to tell.
    "RCU stall": _by_module("stuck", "spin", "rcu: INFO:.*stall", _STALL, needs=("cpus",)),
    "interrupts off": _by_module("stuck", "spin-deaf"),
    "interrupts off on every CPU": _by_module("stuck", "spin-all"),
    "WBINVD all the time": _by_module("lives", "wbinvd"),
    "NMI": Fault("lives", says="Dazed and confused", outside=_nmi),
    "NMI, panic": Fault("failed", says=_PANIC, settings=(_NMI_PANIC,), outside=_nmi),
    "machine check": Fault("failed", says=_PANIC, outside=_machine_check, needs=("machine-check",)),
    "one CPU stands still": Fault("lives", outside=_one_stands_still),
    "every CPU stands still": Fault("lives", outside=_stand_still),
    "flipped bit": Fault("failed", says=_PANIC, outside=_bit, needs=("faults",)),
    "poweroff -f": Fault("stopped", "poweroff -f", "reboot: "),
    "reboot -f": Fault("stopped", "reboot -f", "reboot: "),
    "sysrq b": Fault("stopped", "echo b >/proc/sysrq-trigger", "", (_SYSRQ,)),
}
"""By what is done. How it ends is how it does in a spawned kernel of the reference series."""
