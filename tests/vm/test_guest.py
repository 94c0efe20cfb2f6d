# SPDX-License-Identifier: MIT
"""What a running guest is good for: commands, files, its console. Nothing here wrecks it."""

from __future__ import annotations

import random
import time

import pytest

from harness.vm.console import TimedOut, printed
from harness.vm.machine import Machine, State


def test_its_user_space_says_so(shared: Machine) -> None:
    release = shared.channel("guest").release
    assert shared.console("guest").expect(printed(f"mkh: user space is up on guest, {release}, 2 CPUs\r\n"))


def test_commands(shared: Machine) -> None:
    guest = shared.channel("guest")
    result = guest.run("cat /proc/cmdline; echo oops >&2; exit 42")
    assert (result.status, result.text, result.stderr) == (42, shared.spec.cmdline, b"oops\n")
    assert guest.run("kill -KILL $$").status == -9


def test_binary_files_both_ways(shared: Machine) -> None:
    guest = shared.channel("guest")
    data = random.Random(1).randbytes(1 << 18)
    guest.put("/tmp/file", data, 0o600)
    assert guest.get("/tmp/file") == data
    assert guest.run("stat -c %a /tmp/file").text == "600"
    assert guest.resent == 0, "bytes got lost between QEMU and the agent"


def test_kernel_messages_do_not_tear_an_answer(shared: Machine) -> None:
    guest = shared.channel("guest")
    guest.run("echo on >/proc/sys/kernel/printk_devkmsg").check()
    command = "for i in $(seq 100); do echo line $i; echo message $i >/dev/kmsg; done"
    assert guest.run(command).stdout == b"".join(b"line %d\n" % i for i in range(1, 101))
    assert shared.console("guest").expect("message 100")


def test_an_agent_that_was_called_before_it_listened(machine: Machine) -> None:
    # The line is as a kernel makes it: it echoes, and ^S stops what it sends.
    guest = machine.channel("guest")
    stop = "stty -F /dev/ttyS3 sane ixon; sleep 0.2; killall mkagent; exec sleep 5"
    guest.run(f"({stop}) </dev/ttyS3 >/dev/null 2>&1 &")
    machine.console("guest").expect("the agent on ttyS3 ended")
    guest._link.hello(0x13131313)
    guest.wait_ready(timeout=10)
    assert guest.run("echo here").text == "here"


def test_people_can_type(shared: Machine) -> None:
    console = shared.console("guest")
    console.send("echo typed $((6 * 7))\n")
    assert console.expect(r"typed 42\r\n")


def test_a_console_that_nobody_waits_for_does_not_stall_the_guest(shared: Machine) -> None:
    guest = shared.channel("guest")
    guest.run("seq 20000 >/dev/ttyS2; echo the end >/dev/ttyS2", timeout=120).check()
    assert shared.console("guest").expect("the end")
    assert shared.console("guest").transcript.count(b"\n") > 20_000


def test_a_wait_that_times_out_shows_the_console(shared: Machine) -> None:
    with pytest.raises(TimedOut, match=r"guest: 'this never comes' did not come") as caught:
        shared.console("guest").expect("this never comes", timeout=0.1)
    assert "The last lines of guest's console" in str(caught.value)


def test_frozen_and_thawed(shared: Machine) -> None:
    guest = shared.channel("guest")
    shared.freeze()
    assert shared.state is State.FROZEN
    assert shared.qmp.execute("query-status")["status"] == "paused"
    seen = shared.console("guest").mark
    time.sleep(0.2)
    assert shared.console("guest").mark == seen
    shared.thaw()
    assert shared.state is State.LIVE
    assert guest.run("echo well").text == "well"
    assert {"STOP", "RESUME"} <= {event["event"] for event in shared.qmp.events}
