# SPDX-License-Identifier: MIT
"""What a host says of CPUs that it has stopped for its successor ends no wait; anything else does."""

from __future__ import annotations

import re

import pytest

from harness.kexec import LAST_WORDS
from harness.klog.splat import Severity, find_splats
from harness.vm.watch import Expectation

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


def allowed(line: str) -> bool:
    (splat,) = find_splats(f"[   12.000000] {line}\n")
    assert splat.severity >= Severity.REPORT
    return Expectation(re.compile(LAST_WORDS), since=0).allows(splat)


@pytest.mark.parametrize("line", HARMLESS.values(), ids=HARMLESS)
def test_harmless(line: str) -> None:
    assert allowed(line)


@pytest.mark.parametrize("line", TELLING.values(), ids=TELLING)
def test_telling(line: str) -> None:
    assert not allowed(line)
