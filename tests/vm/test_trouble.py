# SPDX-License-Identifier: MIT
"""What real kernels print when something is wrong, and what comes of it."""

from __future__ import annotations

import pytest

from harness.klog.splat import Severity
from harness.vm.command import ChannelError
from harness.vm.console import Trouble
from harness.vm.machine import Machine

CRASH = "echo c >/proc/sysrq-trigger"
TITLE = "Kernel panic: sysrq triggered crash"


def test_a_healthy_boot_has_no_splat(machine: Machine) -> None:
    assert machine.console("guest").splats() == ()


def test_a_panic_that_nobody_expects(machine: Machine) -> None:
    console = machine.console("guest")
    console.send(f"{CRASH}\n")
    with pytest.raises(Trouble) as caught:
        console.expect("this never comes", timeout=600)
    splat = caught.value.splat
    assert (splat.title, splat.severity, splat.open) == (TITLE, Severity.FATAL, False)
    assert "Call Trace:" in splat.text
    assert "---[ end Kernel panic" in splat.text


def test_a_panic_on_purpose(machine: Machine) -> None:
    console = machine.console("guest")
    with (
        console.expected("sysrq triggered crash") as expected,
        pytest.raises(ChannelError, match="Kernel panic"),
    ):
        machine.channel("guest").run(CRASH, timeout=600)
    assert [splat.title for splat in expected.splats] == [TITLE]
    assert console.expect("Kernel panic", timeout=600)


def test_a_message_that_looks_like_a_bug_ends_a_command(machine: Machine) -> None:
    guest, console = machine.channel("guest"), machine.console("guest")
    command = "echo 'BUG: written by a test' >/dev/kmsg; sleep {}"
    with pytest.raises(ChannelError, match="BUG: written by a test") as caught:
        guest.run(command.format(600), timeout=600)
    assert caught.value.splat is not None
    assert caught.value.splat.kind == "bug"
    with console.expected("written by a test") as expected:
        assert guest.run(command.format(1)).status == 0
    assert [splat.title for splat in expected.splats] == ["BUG: written by a test"]
