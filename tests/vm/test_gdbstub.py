# SPDX-License-Identifier: MIT
"""One vCPU stopped while others run; registers; watchpoints."""

from __future__ import annotations

import os
import time

import pytest

from harness.errors import UsageError
from harness.lab import Pair
from harness.oracle.processors import processors
from harness.vm.command import ChannelError
from harness.vm.gdbpackets import GdbError
from harness.vm.gdbstub import attached, stopped
from harness.vm.machine import Machine

SILENCE = 2.0
"""Seconds in which a kernel that runs answers many times."""


def symbol(machine: Machine, name: str) -> int:
    line = machine.channel("guest").run(f"grep -w {name} /proc/kallsyms").check().text
    return int(line.split()[0], 16)


def test_a_spawned_kernel_stands_still_and_goes_on(pair: Pair) -> None:
    machine, (vcpu,) = pair.lab.machine, pair.instance.apic_ids
    before = pair.host.heartbeat()
    uptime = float(pair.spawned.read("/proc/uptime").split()[0])
    factor = machine.accel.factor
    with stopped(machine, vcpu) as registers:
        assert pair.instance.ram.start <= registers["cr3"] < pair.instance.ram.end
        # A command that times out would be killed, and wait long for that too.
        with pytest.raises(ChannelError, match="did not answer"):
            pair.spawned.channel.wait_ready(SILENCE / factor, watch=False)
        rip = processors(machine)[vcpu].rip
        assert pair.host.run("echo alive") == "alive"
        assert processors(machine)[vcpu].rip == rip == registers["rip"]
    assert pair.spawned.run("echo alive") == "alive"
    assert float(pair.spawned.read("/proc/uptime").split()[0]) > uptime
    assert pair.host.heartbeat().stopped_since(before) == []


def test_a_host_cpu_stands_still_while_the_spawned_kernel_runs(pair: Pair) -> None:
    machine = pair.lab.machine
    with stopped(machine, 1):
        for _ in range(3):
            assert pair.spawned.run("echo alive") == "alive"
            time.sleep(0.1)
    assert pair.host.run("taskset 2 echo alive || echo alive").endswith("alive")


def test_nothing_is_left_and_one_at_a_time(shared: Machine) -> None:
    guest = shared.channel("guest")

    def open_files() -> tuple[int, int]:
        return len(os.listdir("/proc/self/fd")), len(os.listdir(f"/proc/{shared.pid}/fd"))

    before = open_files()
    for _ in range(3):
        with attached(shared) as gdb:
            assert gdb.registers(0)["cr3"]
            with pytest.raises(GdbError, match="already"), attached(shared):
                pass
        assert guest.run("echo well").text == "well"
    assert open_files() == before
    assert shared.qmp.execute("query-status")["status"] == "running"


def test_break_and_watchpoints_say_who_it_was(shared: Machine) -> None:
    function = symbol(shared, "hrtimer_interrupt")
    with attached(shared) as gdb:
        gdb.watch(function, 1, "execute")
        gdb.run()
        stop = gdb.wait(30)
        registers = gdb.registers(stop.vcpu)
        assert (stop.signal, registers["rip"]) == (5, function)
        gdb.unwatch()
        # The next thing that anybody calls or saves there.
        saved = registers["rsp"] - 8
        gdb.watch(saved)
        gdb.run()
        stop = gdb.wait(30)
        assert (stop.signal, stop.address) == (5, saved)
        assert gdb.registers(stop.vcpu)["rip"] >> 63, "the kernel wrote it"
    assert shared.channel("guest").run("echo well").text == "well"


def test_a_machine_that_runs_is_not_asked(shared: Machine) -> None:
    with attached(shared) as gdb:
        with pytest.raises(UsageError, match="no vCPU 2"):
            gdb.registers(2)
        gdb.run()
        with pytest.raises(UsageError, match="call halt"):
            gdb.registers(0)
        assert gdb.halt().vcpu in {0, 1}


def test_a_machine_that_ends_meanwhile(machine: Machine) -> None:
    with attached(machine) as gdb:
        gdb.run()
        machine.end()
    assert machine.ended()
