# SPDX-License-Identifier: MIT
"""What is wrong with a kernel, from what it said at two moments; and each fault's name for itself."""

from __future__ import annotations

import pytest

from harness.faults import FAULTS
from harness.report.suite import key_of
from harness.service import Vitals


def at(moment: float, *, clock: float | None = None, date: float | None = None, timers: int = 0) -> Vitals:
    """Say what a kernel told that was asked at a moment and took 0.1 s to answer."""
    own = moment if clock is None else clock
    return Vitals(moment, moment + 0.1, own, own if date is None else date, {0: 50 + timers, 1: 70 + timers})


def test_a_kernel_that_is_well() -> None:
    assert at(20, timers=5).wrong_since(at(10)) == []
    # Seconds are whole, and an answer takes its time.
    assert at(20, date=19, timers=1).wrong_since(at(10)) == []


@pytest.mark.parametrize(
    ("now", "what"),
    [
        (at(20, clock=12, date=20, timers=1), "monotonic clock went 2.00 s in 9.90 to 10.10 s"),
        (at(20, date=35, timers=1), "real-time clock went 25.00 s"),
        (at(20), "CPU 0 has had no timer interrupt"),
    ],
)
def test_what_is_wrong_is_named(now: Vitals, what: str) -> None:
    assert what in "; ".join(now.wrong_since(at(10)))


def test_a_cpu_that_is_gone_has_no_interrupts() -> None:
    now = Vitals(20, 20.1, 20, 20, {0: 60})
    assert now.wrong_since(at(10)) == ["CPU 1 has had no timer interrupt"]


def test_every_fault_is_a_claim_of_its_own() -> None:
    case = "tests/conformance/faults/test_spawned_fails.py::test_others_live"
    assert len({key_of(f"{case}[{name}]") for name in FAULTS}) == len(FAULTS)
    assert key_of("tests/conformance/files/test_x.py::test_y[one]") == "files/test_x.py::test_y"


def test_a_fault_comes_about_in_one_way_and_can_be_told() -> None:
    for name, fault in FAULTS.items():
        assert bool(fault.command) != bool(fault.outside), name
        if fault.ends == "failed":
            assert fault.says, f"{name}: a panic prints something"
