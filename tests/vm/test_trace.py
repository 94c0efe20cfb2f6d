# SPDX-License-Identifier: MIT
"""Device and local-APIC register writes, told by vCPU."""

from __future__ import annotations

import os
import secrets
import signal
from collections import Counter

import pytest

from harness.lab import Pair
from harness.multikernel import messaging
from harness.vm.lapic import apic_ids, ipis
from harness.vm.machine import Machine
from harness.vm.trace import TraceError, Write, trace

MESSAGE_VECTOR = 0xEA
"""Source: multikernel-interface, MULTIKERNEL_VECTOR; v1, v2 and the reference series."""
SERIAL_2 = 0x3E8


def open_files(pid: int | str) -> int:
    return len(os.listdir(f"/proc/{pid}/fd"))


def printed(writes: list[Write], port: int) -> bytes:
    return bytes(write.value for write in writes if write.address == port and write.region == "serial")


@pytest.mark.needs("messages")
def test_a_message_is_the_only_ipi_that_crosses(pair: Pair) -> None:
    machine, payload = pair.lab.machine, secrets.token_bytes(32)
    with trace(machine) as writes:
        messaging.send(pair.host, pair.lab.dialect.to_spawned(pair.instance), payload)
        messaging.wait_for(pair.spawned, payload)
    ids = apic_ids(machine)
    inside = set(pair.instance.apic_ids)
    sent = ipis(writes)
    crossing = [ipi for ipi in sent if (ids[ipi.source] in inside) != (ipi.targets(ids) <= inside)]
    assert crossing, f"{len(writes)} writes, {len(sent)} IPIs, none from one kernel to the other"
    kinds = Counter((ipi.vector, ipi.delivery, ipi.shorthand) for ipi in crossing)
    assert set(kinds) == {(MESSAGE_VECTOR, "fixed", "")}, kinds
    for ipi in crossing:
        assert ids[ipi.source] not in inside, f"{ipi} comes from the spawned kernel"
        assert ipi.targets(ids) == inside


def test_a_kernels_console_is_written_by_its_own_vcpus(pair: Pair) -> None:
    machine, inside = pair.lab.machine, set(pair.instance.apic_ids)
    with trace(machine) as writes:
        pair.host.run("echo told by the host >/dev/ttyS2")
        assert pair.host.console.expect(r"told by the host\r\n")
    assert b"told by the host\r\n" in printed(writes, SERIAL_2)
    ids = apic_ids(machine)
    writers = {write.vcpu for write in writes if write.address == SERIAL_2}
    assert writers, "nobody wrote"
    assert all(vcpu is not None and ids[vcpu] not in inside for vcpu in writers), writers


def test_nothing_outside_the_stretch(machine: Machine) -> None:
    guest, console = machine.channel("guest"), machine.console("guest")
    # A message of the kernel's may stand between a word and the end of its line.
    guest.run("dmesg -n 1").check()
    ours, theirs = open_files("self"), open_files(machine.pid)
    for word in ("first", "second"):
        guest.run(f"echo before the {word} >/dev/ttyS2").check()
        assert console.expect(f"before the {word}\r\n")
        with trace(machine) as writes:
            guest.run(f"echo {word} >/dev/ttyS2").check()
            assert console.expect(f"{word}\r\n")
        recorded = len(writes)
        guest.run(f"echo after the {word} >/dev/ttyS2").check()
        assert console.expect(f"after the {word}\r\n")
        # The kernel may say something of its own in between.
        told = printed(writes, SERIAL_2)
        assert f"{word}\r\n".encode() in told
        assert b"before the" not in told
        assert b"after the" not in told
        assert len(writes) == recorded
    # QEMU's log is /dev/null from the first stretch on.
    assert (open_files("self"), open_files(machine.pid)) == (ours, theirs + 1)
    assert "memory_region" not in machine.stderr


def test_one_stretch_at_a_time(shared: Machine) -> None:
    with trace(shared), pytest.raises(TraceError, match="already"), trace(shared):
        pass


def test_a_flood_is_dropped_and_told(shared: Machine) -> None:
    guest = shared.channel("guest")
    with pytest.raises(TraceError, match="were dropped"), trace(shared, limit=10_000) as writes:
        guest.run("seq 1000 >/dev/ttyS2").check()
    assert 0 < len(writes) < 200
    assert guest.run("echo well").text == "well"


def test_a_machine_that_ends_meanwhile(machine: Machine) -> None:
    with trace(machine) as writes:
        machine.channel("guest").run("echo last words >/dev/ttyS2").check()
        assert machine.console("guest").expect(r"last words\r\n")
        os.kill(machine.pid, signal.SIGKILL)
        machine.wait_end()
    assert b"last words" in printed(writes, SERIAL_2)
