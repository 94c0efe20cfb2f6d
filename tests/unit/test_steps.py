# SPDX-License-Identifier: MIT
"""What was done to a machine is kept in order, within limits, and what is left out is counted."""

from harness.vm import steps
from harness.vm.steps import OUTSIDE, Steps, ended


def test_commands_files_and_faults_are_kept_in_order() -> None:
    done = Steps()
    ended(done.run("host", "cat /proc/iomem"), "0", b"x" * 5000 + b"the end\n")
    done.put("host", "/run/tree.dtb", b"\xd0\x0d")
    done.outside("NMI on vCPU 1")
    assert [(one.kernel, one.command, one.file) for one in done] == [
        ("host", "cat /proc/iomem", ""),
        ("host", "", "/run/tree.dtb"),
        (OUTSIDE, "NMI on vCPU 1", ""),
    ]
    first = next(iter(done))
    assert first.said.endswith("the end")
    assert len(first.said) <= steps.SAID


def test_a_command_that_is_repeated_is_kept_once_with_its_last_answer() -> None:
    done = Steps()
    for answer in (b"loading", b"active"):
        ended(done.run("host", "cat status"), "0", answer)
    (one,) = done
    assert (one.times, one.said) == (2, "active")
    ended(done.run("alpha", "cat status"), "0")
    assert len(list(done)) == 2


def test_the_first_and_the_last_are_kept_of_many() -> None:
    done = Steps()
    for number in range(2000):
        ended(done.run("host", f"echo {number}"), "0")
    kept = [one.command for one in done]
    assert kept[0] == "echo 0"
    assert kept[-1] == "echo 1999"
    assert len(kept) == steps.FIRST + steps.LAST
    assert done.left_out == 2000 - len(kept)


def test_a_long_file_is_told_by_its_size_alone() -> None:
    done = Steps()
    done.put("host", "/big", bytes(steps.DATA + 1))
    (one,) = done
    assert (one.size, one.data) == (steps.DATA + 1, b"")


def test_a_fork_begins_with_what_was_done_before_it() -> None:
    stage = Steps()
    ended(stage.run("host", "mount"), "0")
    fork = Steps()
    fork.before(stage)
    ended(fork.run("host", "ls"), "0")
    assert [one.command for one in fork] == ["mount", "ls"]
