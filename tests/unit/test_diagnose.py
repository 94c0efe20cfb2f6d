# SPDX-License-Identifier: MIT
"""A failure's explanation says what was seen, in order, and no more than that."""

from __future__ import annotations

import time
from types import SimpleNamespace
from typing import Any

import pytest

from harness.diagnose import conclude, consoles, told
from harness.diagnose.began import Began
from harness.diagnose.life import Life
from harness.diagnose.splats import Decoded, decoded
from harness.diagnose.stacks import Frame
from harness.diagnose.vcpus import Seen, Vcpu, listed, stacks
from harness.errors import HarnessError
from harness.klog.splat import find_splats
from harness.report.record import Console, Line
from harness.vm import patience
from harness.vm.registers import Registers, Segment
from harness.vm.state import Cause

OOPS = """\
[    2.379509] BUG: kernel NULL pointer dereference, address: 0000000000000000
[    2.383756] Oops: Oops: 0000 [#1] SMP
[    2.384977] RIP: 0010:fault_write+0x5d/0x22c [mkfault]
[    2.385783] RSP: 0018:ffffc90000313e28 EFLAGS: 00000246
[    2.385880] RAX: 0000000000000000 RBX: 0000000000000005 RCX: ffffc90000313e28
[    2.387277] Call Trace:
[    2.387693]  <TASK>
[    2.387857]  proc_reg_write+0x61/0x73
[    2.388183]  ? handle_mm_fault+0xe6/0x16f
[    2.390495] ---[ end trace 0000000000000000 ]---
"""


class Places:
    """Tells the very place that it was asked for."""

    def of(self, function: str, inside: int, size: int, module: str = "") -> str:
        return f"{function}.c:{inside}"


def vcpu(index: int, kernel: str, *names: str, deaf: bool = False, halted: bool = False) -> Vcpu:
    values = {"RIP": 0, "RFL": 0 if deaf else 1 << 9, "CR0": 1 << 31, "CR4": 0, "CR3": 0}
    registers = Registers(index, values, {"CS": Segment(0x10, 0)}, halted)
    return Vcpu(index, kernel, registers, tuple(Frame(0, name, 1, 9) for name in names))


def twice(*arguments: Any, **flags: Any) -> Seen:
    return Seen(vcpu(*arguments, **flags), vcpu(*arguments, **flags))


def machine(cause: Cause | None = None) -> Any:
    return SimpleNamespace(cause=cause, consoles={})


def life(kernel: str, answers: bool | None, **more: Any) -> Life:
    return Life(kernel, "a line", 1.0, answers, "answers" if answers else "does not answer", **more)


def concluded(cause: Cause | None = None, splats: Any = (), **known: Any) -> str:
    lives, seen = known.pop("lives", ()), known.pop("seen", ())
    arguments = {"why": "x", "waited": True, **known}
    return conclude.conclude(machine(cause), dict(splats), lives, seen, **arguments)


IDLE = twice(0, "host", "default_idle", "do_idle")


def test_who_spins_with_interrupts_off_hangs_and_others_live():
    seen = [IDLE, twice(3, "alpha", "spin", "write", deaf=True)]
    said = concluded(lives=[life("host", True), life("alpha", False)], seen=seen)
    assert said.startswith("alpha hangs: its vCPU 3 spins in spin with interrupts off. host lives.")


def test_who_runs_elsewhere_at_the_second_look_does_not_spin():
    moving = Seen(vcpu(3, "alpha", "one", "write"), vcpu(3, "alpha", "two", "write"))
    said = concluded(lives=[life("alpha", False)], seen=[moving])
    assert "hangs" not in said
    assert "alpha does not answer, though it is not stuck in one place: vCPU 3 runs, now in two." in said


def test_interrupts_off_and_halted_is_the_end_of_a_kernel():
    seen = [twice(3, "alpha", "panic", deaf=True, halted=True)]
    said = concluded(lives=[life("alpha", False)], seen=seen)
    assert "alpha hangs: its vCPU 3 is halted with interrupts off" in said


def test_heart_that_stopped_on_one_cpu_is_told():
    said = concluded(lives=[life("host", True, beating=(0,), still=(1,))], seen=[IDLE])
    assert "host answers, but its heart does not beat on CPU 1." in said


def test_qemu_that_is_silent_itself_is_not_its_kernels_fault():
    said = concluded(lives=[life("host", False), life("alpha", False)])
    assert said.startswith("QEMU does not answer, nor do its kernels")
    assert "no vCPU" not in said


def test_wait_for_what_never_comes_blames_nobody():
    said = concluded(lives=[life("host", True)], seen=[IDLE])
    assert said.startswith("No kernel hangs. host answers.")


def test_failed_check_is_no_hang():
    said = concluded(lives=[life("host", True)], seen=[IDLE], waited=False)
    assert said == "The kernels go on: the test's own check did not hold. host answers."


def test_finding_of_the_oracles_is_not_the_tests_own_check():
    said = concluded(lives=[], waited=False, why="seen from outside: 1 page was written")
    assert said.startswith("The test itself passed. Then, seen from outside: 1 page was written.")


def test_triple_fault_names_the_cpu_whose_interrupt_table_is_empty():
    broken = vcpu(3, "alpha", "payload", deaf=True)
    registers = Registers(3, broken.registers.values, broken.registers.segments, halted=False, idt_limit=0)
    seen = [Seen(vcpu(1, "host", "lock", deaf=True)), Seen(Vcpu(3, "alpha", registers, broken.stack))]
    said = concluded(Cause.RESET, seen=seen)
    assert "this was a triple fault" in said
    assert "It was vCPU 3 (alpha, in payload): its interrupt table is empty." in said


def test_killed_qemu_is_not_the_kernels_fault():
    assert "neither by a guest nor by mkharness" in concluded(Cause.LOST)


def test_splat_gets_places_and_loses_registers():
    (splat,) = find_splats(OOPS)
    found = decoded(splat, Places())  # type: ignore[arg-type]
    assert "fault_write+0x5d/0x22c [mkfault]       fault_write.c:93" in found.text
    # A trace names where a call returns to, which may be another line.
    assert "proc_reg_write.c:96" in found.text
    assert "handle_mm_fault.c" not in found.text
    assert "RAX" not in found.text
    assert str(found) == "NULL pointer dereference in fault_write (fault_write.c:93)"


def test_panic_after_its_cause_is_one_sentence():
    splats = [
        decoded(one, Places()) for one in find_splats(OOPS + "[    3.0] Kernel panic - not syncing: Oops\n")
    ]  # type: ignore[arg-type]
    said = concluded(splats={"alpha": splats}, waited=False)
    assert said.startswith(
        "alpha printed: NULL pointer dereference in fault_write (fault_write.c:93), and panicked."
    )


def test_consoles_are_on_one_clock_and_a_splat_is_one_line():
    now = time.monotonic()
    at = time.time() - 10

    def line(after: float, text: str) -> Line:
        return Line(at + after, text)

    oops = [line(5 + n / 100, text) for n, text in enumerate(OOPS.splitlines())]
    shown = (
        Console(
            "host", (line(-1, "before"), line(2, "host# ^[[6n"), line(4, "then the host"), line(6, "at last"))
        ),
        Console("alpha", (line(3, "first alpha"), *oops)),
    )
    (splat,) = find_splats(OOPS)
    about: Any = SimpleNamespace(began=Began({}, now - 10))
    few, everything = consoles.merged(shown, {"alpha": [Decoded(splat, "", "")]}, about, now)
    texts = [line.partition("| ")[2] or line for line in few.splitlines()]
    assert texts == [
        "before",
        "------------ the test begins",
        "first alpha",
        "then the host",
        f"{OOPS.splitlines()[0]} [10 lines: see above]",
        "at last",
    ]
    # The test and merged() each read two clocks, one after the other.
    assert float(few.splitlines()[2].split()[0]) == pytest.approx(-7, abs=1)
    assert everything.count("\n") == 14


def test_vcpus_that_do_the_same_are_one_line():
    idle = [twice(number, "host", "default_idle", "do_idle") for number in range(3)]
    assert listed([*idle, twice(3, "alpha", "spin", deaf=True)]).splitlines() == [
        "vCPU 0, 1, 2, host: is idle",
        "vCPU 3, alpha: spins in spin with interrupts off",
    ]


def test_guessed_frames_say_so():
    frame = Frame(0, "spin", 0x10, 0x20, "mkfault", guessed=True)
    seen = Seen(Vcpu(0, "host", vcpu(0, "host").registers, (frame,)))
    assert "spin+0x10 [mkfault] (guessed)" in stacks([seen])


def test_time_out_is_known_through_what_it_caused():
    late = HarnessError("x", timed_out=True)
    assert told.out_of_time(late)
    assert not told.out_of_time(HarnessError("x"))
    assert told.out_of_time(ExceptionGroup("several", [ValueError(), late]))
    assert told.out_of_time(pytest.fail.Exception("Timeout (>600.0s) from pytest-timeout."))
    outer = AssertionError("it did not come")
    outer.__cause__ = late
    assert told.out_of_time(outer)


@pytest.fixture
def heard(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    lines: list[str] = []
    monkeypatch.setattr(patience, "LISTENERS", [lines.append])
    return lines


def test_long_wait_says_once_that_it_goes_on(heard, monkeypatch):
    now = 100.0
    monkeypatch.setattr(patience.time, "monotonic", lambda: now)
    wait = patience.Patience(20.0, "a miracle", lambda: "nothing new")
    assert wait.left == 10.0
    assert not wait.over()
    now = 110.0
    assert not wait.over()
    assert not wait.over()
    assert wait.left == 10.0
    now = 121.0
    assert wait.over()
    assert heard == ["still waiting for a miracle after 10 of 20 s; nothing new"]


def test_short_wait_says_nothing(heard):
    wait = patience.Patience(0.0, "a moment")
    time.sleep(0.01)
    assert wait.over()
    assert heard == []
