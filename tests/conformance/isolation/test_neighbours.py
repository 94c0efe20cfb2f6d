# SPDX-License-Identifier: MIT
"""What one kernel does or suffers that must not become another's: a stop, nonsense in memory, the clock."""

from __future__ import annotations

import struct
import time

import pytest

from harness.capabilities import interface_of
from harness.lab import Lab, Pair
from harness.multikernel import calls, messaging
from harness.multikernel.area import HEAD, PAGE, TAIL, area_of
from harness.multikernel.interface import Interface
from harness.multikernel.payload import Payload, spawn_payload
from harness.plugin import Seen, claim
from harness.scene import wait_for_state
from harness.vm.machine import Machine

pytestmark = pytest.mark.needs("spawn")

DOORBELL = 0xEA
"""Interrupt vector of messages between kernels. Source: RFC v1 4/7 and v2, MULTIKERNEL_VECTOR."""
CLOCK_ADJTIME, ADJ_MAXERROR, ADJ_STATUS = 305, 0x4, 0x10
"""Number of a system call, and what it is to change. Source: clock_adjtime(2), adjtimex(2)."""
SYNCHRONISED = 6.0
"""Seconds until a Linux whose time is synchronised has set its clock, before scaling: it tries every two."""


@claim(
    "to stop one of two kernels, asked or by force, stops that one and not the other, whatever their ids and"
    " the order of their starts",
    source="multikernel tree: LINUX_REBOOT_CMD_MULTIKERNEL_HALT names an instance",
)
@pytest.mark.needs("several", "halt", "force")
@pytest.mark.parametrize("machine", ["three"], indirect=True)
def test_stop_of_another(machine: Lab, seen: Seen) -> None:
    mk = interface_of(machine)
    # The last is started first, so that no two orders of them agree.
    running = [spawn_payload(machine, granted) for granted in reversed(machine.topology.spawned)]
    for how in ("halt", "force"):
        for one in running:
            outcome = (mk.halt if how == "halt" else mk.force)(one.instance.id)
            states = {other.instance.name: mk.state(other.instance.name) for other in running}
            wanted = {name: "ready" if name == one.instance.name else "active" for name in states}
            seen(f"{how} of {one.instance.name}: {outcome.error or 'done'}, {states}")
            assert states == wanted, (
                f"{how} of {one.instance.name} (id {one.instance.id}): {outcome}, {states}"
            )
            outcome.require()
            for other in running:
                assert other is one or other.ticks_on(), f"{other.instance.name} is active and does nothing"
            one.load()
            one.start()


@claim(
    "whatever a kernel writes where its messages to the host are, the host notices at once when it ends, and"
    " works on nothing that was never sent",
    source="kernels/reference/0010: what the other side writes can lose messages between the two, no more",
)
@pytest.mark.needs("messages", "halt", "force")
@pytest.mark.parametrize("byte", [0xFF, 0x7F, 0x10])
def test_nonsense_is_no_work(payload: Payload, mk: Interface, lab: Lab, byte: int, seen: Seen) -> None:
    area, name = area_of(lab.host), payload.instance.name
    ring = area.ring(0, payload.boot.told["slot"])
    before = messaging.counters(lab.host)["received"]
    # Messages of a type that is handled, of a length that may be, more of them than there is room for.
    payload.send(0, bytes(8), type=messaging.USER)
    payload.command(f"fill {ring + TAIL:#x} 4 {byte:#x}")
    payload.command(f"fill {ring + HEAD:#x} 4 {byte:#x}")
    payload.command(f"ipi {lab.host.apic_ids()[0]} {DOORBELL:#x}")
    payload.last_command("stop")
    began = time.monotonic()
    state = wait_for_state(mk, name, "ready", lab.host.factor)
    took = time.monotonic() - began
    came = messaging.counters(lab.host)["received"] - before
    seen(f"{byte:#x} in head and tail: {state} after {took:.1f} s, {came} messages handled, 1 was sent")
    assert state == "ready", (
        f"{name} has stopped and is {state}: the host is busy with messages that nobody sent, {came} so far"
    )
    assert came <= 1 + PAGE // 248, f"{came} messages were delivered, one was sent: stale ones"
    payload.load()
    payload.start()
    payload.send(0, b"afterwards", type=messaging.USER)
    messaging.wait_for(lab.host, b"afterwards")


def year_of(machine: Machine) -> int:
    """Return the year that the machine's clock (RTC) has, as QEMU tells."""
    told: dict[str, int] = machine.qmp.execute("qom-get", path="/machine", property="rtc-time")
    return told["tm_year"] + 1900


@claim(
    "a spawned kernel that sets its time, and counts it as synchronised, leaves the machine's clock alone",
    source="kernels/reference/README.md: it has no RTC; review of RFC v1 (Pasha Tatashin): global state",
)
@pytest.mark.needs("halt")
def test_clock_of_the_machine(pair: Pair, seen: Seen) -> None:
    before = year_of(pair.lab.machine)
    year = before + 14
    pair.spawned.run(f"date -s {year}-01-01")
    # What a client of NTP says: status 0, that is, not unsynchronised; no error.
    synchronised = struct.pack("<IIqqqqi", ADJ_MAXERROR | ADJ_STATUS, 0, 0, 0, 0, 0, 0).ljust(208, b"\0")
    calls.call(pair.spawned, f"{CLOCK_ADJTIME} 0 io:{synchronised.hex()}").require()
    limit = time.monotonic() + SYNCHRONISED * pair.lab.accel.factor
    while (after := year_of(pair.lab.machine)) == before and time.monotonic() < limit:
        time.sleep(0.2)
    seen(f"RTC: {before} before, {after} after {pair.spawned.name} had set {year}")
    assert after == before, (
        f"{pair.spawned.name} has set its date to {year}, and now the machine's RTC is in {after}"
    )
