# SPDX-License-Identifier: MIT
"""Faults that are put into a machine from outside, and what its kernels see of them."""

from __future__ import annotations

import re

import pytest

from harness.errors import UsageError
from harness.lab import Pair
from harness.vm import inject
from harness.vm.channel import Channel
from harness.vm.machine import Cause, Machine, State
from harness.vm.ram import ram_of
from harness.vm.ram_scan import find


def nmis(guest: Channel) -> list[int]:
    line = guest.run("grep NMI: /proc/interrupts").check().text
    return [int(count) for count in re.findall(r"\b\d+\b", line)]


def test_an_nmi_to_one_vcpu(machine: Machine) -> None:
    guest = machine.channel("guest")
    before = nmis(guest)
    inject.nmi(machine, 1)
    assert machine.console("guest").expect("Uhhuh. NMI received for unknown reason .* on CPU 1")
    assert nmis(guest) == [before[0], before[1] + 1]


def test_an_nmi_to_all(machine: Machine) -> None:
    guest = machine.channel("guest")
    before = nmis(guest)
    inject.nmi(machine)
    assert machine.console("guest").expect("Uhhuh. NMI received for unknown reason")
    assert sum(nmis(guest)) > sum(before)


def test_an_nmi_stays_with_its_kernel(pair: Pair) -> None:
    inject.nmi(pair.lab.machine, 0)
    assert pair.host.console.expect("Uhhuh. NMI received")
    assert sum(nmis(pair.host.channel)) == 1
    assert sum(nmis(pair.spawned.channel)) == 0
    inject.nmi(pair.lab.machine, pair.instance.apic_ids[0])
    assert pair.spawned.console.expect("Uhhuh. NMI received")
    assert sum(nmis(pair.host.channel)) == 1


def test_a_machine_check_without_a_handler_resets_the_machine(machine: Machine) -> None:
    if "mce" in machine.channel("guest").run("ls /sys/devices/system/machinecheck 2>&1 && echo mce").text:
        pytest.skip("this kernel handles machine checks")
    inject.machine_check(machine, 0, fatal=False)
    assert machine.channel("guest").run("echo well").text == "well"
    inject.machine_check(machine, 0)
    assert machine.wait_end(10) is Cause.RESET
    assert machine.state is State.WRECKED


def test_the_guest_sees_a_flipped_bit_of_data(pair: Pair) -> None:
    channel, machine = pair.host.channel, pair.lab.machine
    channel.run("head -c 4096 /dev/urandom >/tmp/secret").check()
    secret = channel.get("/tmp/secret")
    # Of all copies the page cache's is the one that fills a page.
    (page,) = [address for address in find(ram_of(machine), secret) if address % 4096 == 0]
    inject.flip_bit(machine, page + 100, 3)
    flipped = bytearray(secret)
    flipped[100] ^= 1 << 3
    assert channel.get("/tmp/secret") == flipped
    inject.flip_code_bit(machine, page + 100, 3)
    assert channel.get("/tmp/secret") == secret


def test_wrong_wishes(shared: Machine) -> None:
    with pytest.raises(UsageError, match="no bit 8"):
        inject.flip_bit(shared, 0x1000, 8)
    with pytest.raises(UsageError, match="no vCPU 2"):
        inject.nmi(shared, 2)
