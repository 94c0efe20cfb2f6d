# SPDX-License-Identifier: MIT
"""Tests that fail, each in another way: what they print is in tests/vm/explanations."""

from __future__ import annotations

import os
import signal
import time

import pytest

from harness.faults import FAULTS
from harness.lab import Lab, Pair
from harness.multikernel import messaging
from harness.multikernel.payload import Payload
from harness.plugin import claim

BY = "tests/vm/failing/machines.py"


@claim("The host has as many CPUs as it began with", source=BY)
def test_wrong_value(lab: Lab) -> None:
    assert lab.host.run("nproc") == "7"


@claim("A spawned kernel survives a write to /proc/mkfault", source=BY)
def test_panic(pair: Pair) -> None:
    fault = FAULTS["NULL in a task, panic"]
    fault.prepare(pair.spawned)
    pair.spawned.run(fault.command)


@claim("A spawned kernel answers", source=BY)
def test_hang(pair: Pair) -> None:
    fault = FAULTS["interrupts off"]
    fault.prepare(pair.spawned)
    pair.spawned.run(fault.command, timeout=2.0)


@claim("A message from the host arrives in the payload", source=BY)
def test_lost_message(payload: Payload) -> None:
    messaging.send(payload.host, payload.instance.id, b"first", type=messaging.USER)
    payload.wait_for(b"second", timeout=2.0)


@claim("A kernel writes to its own memory only", source=BY)
def test_stray_write(payload: Payload) -> None:
    beyond = payload.instance.ram.end + (1 << 20)
    payload.write(beyond, b"astray!!")


@claim("A spawned kernel that ends leaves the machine running", source=BY)
def test_triple_fault(payload: Payload) -> None:
    payload.last_command("fault")
    time.sleep(1)
    payload.host.run("true")


@claim("The machine lives as long as its test", source=BY)
def test_qemu_killed(pair: Pair) -> None:
    os.kill(pair.lab.machine.pid, signal.SIGKILL)
    pair.host.run("true")


@claim("The kernel says what is awaited", source=BY)
def test_time_out(pair: Pair) -> None:
    pair.host.run("echo mkharness: nearly what is awaited >/dev/kmsg")
    pair.host.console.expect("exactly what is awaited", timeout=2.0)


if __name__ == "__main__":
    pytest.main([__file__])
