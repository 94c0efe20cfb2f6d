# SPDX-License-Identifier: MIT
"""What a kernel says of stopped CPUs ends no wait once it said that it ends; anything else does."""

from __future__ import annotations

import socket

import pytest

from harness.klog.splat import Severity, find_splats
from harness.vm.console import Console, Trouble
from harness.vm.pump import Pump

HARMLESS = {
    "a task woken on a stopped CPU": "WARNING: kernel/sched/core.c:3389 at set_task_cpu+0x4e/0xa1, CPU#2",
    "the same, until 6.17": "WARNING: CPU: 2 PID: 25 at kernel/sched/core.c:3389 set_task_cpu+0x4e/0xa1",
    "it is called": "WARNING: arch/x86/kernel/apic/ipi.c:74 at native_smp_send_reschedule+0x13/0x28",
    "its pages not counted": "BUG: Bad rss-counter state mm:80a0 type:MM_ANONPAGES val:-16 Comm:sh Pid:73",
}
TELLING = {
    "another warning": "WARNING: kernel/sched/core.c:3389 at set_task_rq+0x4e/0xa1, CPU#2",
    "another bad page": "BUG: Bad page state in process sh  pfn:04a1c",
}
ENDS = [
    "reboot: System halted",
    "reboot: Power down",
    "reboot: Restarting system",
    "reboot: machine restart",
    "sysrq: Resetting",
    "kexec_core: Starting new kernel",
]
BEGINS = "Linux version 7.3.4 (mkharness@mkharness)"
DONE = "payload: ready"


def trouble(*lines: str) -> str | None:
    """Return what ends the wait for DONE, when a console prints ``lines`` and then that."""
    near, far = socket.socketpair()
    pump = Pump(near, near, "alpha")
    console = Console(pump, ended=lambda: None)
    pump.start()
    try:
        for number, line in enumerate(lines):
            far.sendall(f"[   12.{number:06d}] {line}\r\n".encode())
        far.sendall(f"{DONE}\r\n".encode())
        console.expect(DONE, timeout=10)
        first = console.unexpected()
        assert first is None, "it ends no wait, but fails the test"
    except Trouble as error:
        return error.splat.line
    finally:
        far.close()
        pump.close()
    return None


@pytest.mark.parametrize("line", [*HARMLESS.values(), *TELLING.values()])
def test_all_would_be_told(line: str) -> None:
    (splat,) = find_splats(f"[   12.000000] {line}\n")
    assert splat.severity >= Severity.REPORT
    assert trouble(line)


@pytest.mark.parametrize("end", ENDS)
@pytest.mark.parametrize("line", HARMLESS.values(), ids=HARMLESS)
def test_harmless_after_its_end(line: str, end: str) -> None:
    assert trouble("echo", BEGINS, end, "psmouse", line) is None


@pytest.mark.parametrize("line", HARMLESS.values(), ids=HARMLESS)
def test_not_before_its_end(line: str) -> None:
    assert trouble(line, ENDS[0])


@pytest.mark.parametrize("line", HARMLESS.values(), ids=HARMLESS)
def test_not_of_the_next_kernel(line: str) -> None:
    assert trouble(ENDS[0], BEGINS, line)


@pytest.mark.parametrize("line", TELLING.values(), ids=TELLING)
def test_telling_at_its_end_too(line: str) -> None:
    assert trouble(ENDS[0], line)


def test_what_follows_is_told() -> None:
    first, second = HARMLESS["it is called"], TELLING["another warning"]
    told = trouble(ENDS[0], "------------[ cut here ]------------", first, "---[ end trace 0 ]---", second)
    assert told is not None
    assert told.endswith(second)
