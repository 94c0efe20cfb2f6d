# SPDX-License-Identifier: MIT
"""What kernels do to each other's CPUs and devices: nothing but messages, as QEMU's trace tells.

Every interrupt's source and target, and every write to a device, by vCPU (harness.border).
"""

from __future__ import annotations

import secrets
import time
from collections import Counter

import pytest
from msgspec.structs import replace

from harness.border import Border, watch
from harness.lab import Lab, Pair
from harness.multikernel import messaging
from harness.multikernel.interface import Interface
from harness.multikernel.payload import Payload
from harness.oracle.processors import processors
from harness.plugin import Seen, claim
from harness.vm.console import printed
from harness.vm.lapic import BASE, ipis

pytestmark = pytest.mark.needs("spawn")

HAJNOCZI = "review of RFC v1 (Stefan Hajnoczi): what prevents kernel A from sending IPIs to B's CPUs"
GLOBAL = "review of RFC v1 (Pasha Tatashin): machine-global state, in particular interrupts"
REST = 2.0
"""Seconds of watching where nothing is done; an idle kernel's timer fires at least once in them."""
END_LIMIT = 5.0
"""Seconds that a kernel has from its last words to standing still, before scaling."""
TIMER_COUNT = BASE + 0x380
"""Initial count of a local APIC's timer. Source: Intel SDM volume 3, 12.4.1."""
MACHINES_TIMERS = ("PIT", "HPET", "RTC and CMOS memory", "PIT gate and speaker")
CALL_VECTORS = {0xFC, 0xFB, 0xFD}
"""Function calls and rescheduling. Source: arch/x86/include/asm/irq_vectors.h."""
_MODULE = "/lib/modules/mkraw.ko"
# A module that comes or goes makes the kernel call all of its CPUs at once.
_AGAIN = f"for n in 1 2 3; do insmod {_MODULE} && rmmod mkraw; done"
CALLS = f"mkctl shoot 50; test ! -e {_MODULE} || {{ {_AGAIN}; }}"
"""What makes the CPUs of a kernel call each other."""
SHOTS = 100
"""Interrupts between the host's CPUs that are enough to say something of them."""
ENDS = {
    "poweroff": "poweroff -f",
    "halt": "halt -f",
    "reboot": "reboot -f",
    "panic": "echo c >/proc/sysrq-trigger",
}


def require_apart(border: Border, seen: Seen) -> None:
    """Require that nothing crossed but what is agreed."""
    seen(str(border))
    assert border.findings() == (), "\n".join(map(str, border.findings()))


@claim("two kernels at rest touch nothing of each other's", source=HAJNOCZI)
def test_at_rest(pair: Pair, seen: Seen) -> None:
    with watch(pair.lab, pair.instance) as border:
        time.sleep(REST)
    active = {border.kernels[write.vcpu] for write in border.writes if write.vcpu is not None}
    assert active == set(border.kernels), f"only {active} did anything"
    require_apart(border, seen)
    assert border.crossings == [], "there was no message to send"


@claim("each CPU's timer is its own, and the spawned kernel sets none of the machine's", source=GLOBAL)
def test_timers(pair: Pair, seen: Seen) -> None:
    work = "sleep 0.5"
    with watch(pair.lab, pair.instance) as border:
        before = pair.host.heartbeat()
        pair.host.run(work)
        pair.spawned.run(work)
        # A beat means that its CPU's timer was armed.
        assert pair.host.beats_since(before), "a CPU of the host has stopped"
    armed = Counter(write.vcpu for write in border.writes if write.address == TIMER_COUNT)
    others = [touch for touch in border.touches if touch.device in MACHINES_TIMERS]
    seen(f"local timers armed: {dict(armed)}; the machine's: {len(others)} writes")
    assert {vcpu for vcpu in armed if vcpu is not None} == set(range(pair.lab.topology.vcpus))
    assert [str(touch) for touch in others if touch.kernel != touch.owner] == []
    require_apart(border, seen)


@claim("interrupts of the host's devices go to the host's CPUs alone", source=GLOBAL)
def test_device_interrupts(pair: Pair, seen: Seen) -> None:
    with watch(pair.lab, pair.instance) as border:
        # Its serial lines have interrupts, for what it prints and for each command.
        pair.host.run("seq 30 >/dev/ttyS2")
        pair.host.run("true")
    messages = [write for write in border.writes if write.address >= BASE + 0x1000]
    seen(f"{len(messages)} interrupt messages")
    assert messages, "no device interrupted anybody"
    assert [str(crossing) for crossing in border.crossings if crossing.message] == []
    require_apart(border, seen)


@claim(
    "a spawned kernel boots without touching the machine's devices, called by its host alone",
    source="RFC v1 2/7: the CPU is started by INIT and SIPI; " + GLOBAL,
)
def test_boot(lab: Lab, seen: Seen) -> None:
    granted = lab.topology.spawned[0]
    instance = lab.dialect.grant(lab.host, lab.topology, granted)
    arguments = " ".join(lab.dialect.spawned_arguments(lab.topology, granted))
    lab.dialect.load(lab.host, instance, lab.dialect.linux, arguments)
    with watch(lab, instance, during=["start"]) as border:
        lab.dialect.start(lab.host, instance)
        up = printed(f"mkh: user space is up on {granted.name}")
        lab.machine.console(granted.name).expect(up, timeout=40)
    called = {(crossing.source, crossing.target, crossing.delivery) for crossing in border.crossings}
    require_apart(border, seen)
    assert {("host", granted.name, "init"), ("host", granted.name, "startup")} <= called


@claim(
    "whatever ends a spawned kernel, no interrupt of its own but a message, and no reset, leaves its CPUs",
    source="review of RFC v1 (David Hildenbrand): what prevents one kernel from resetting everything",
)
@pytest.mark.parametrize("how", ENDS)
def test_end(pair: Pair, seen: Seen, how: str) -> None:
    console, machine = pair.spawned.console, pair.lab.machine
    with (
        watch(pair.lab, pair.instance, during=["stop"]) as border,
        console.expected("panic|sysrq|crash|NULL|BUG|Oops", required=False),
    ):
        console.send(f"{ENDS[how]}\n")
        wait_for_end(pair)
    machine.end_awaited = machine.ended() is not None
    assert border.touches, f"{how} was not even printed"
    require_apart(border, seen)


def wait_for_end(pair: Pair) -> None:
    """Wait until a kernel that says its last words has ended, or the machine has."""
    console, machine = pair.spawned.console, pair.lab.machine
    limit = time.monotonic() + END_LIMIT * pair.lab.accel.factor
    began, still = console.mark, 0
    while time.monotonic() < limit and machine.ended() is None and still < 5:
        said = console.transcript[began:]
        halted = {one.index for one in processors(machine) if one.halted}
        ending = b"reboot: " in said or b"end Kernel panic" in said
        still = still + 1 if ending and halted >= set(pair.instance.apic_ids) else 0
        time.sleep(0.1)


@claim(
    "messages in both directions cross by the messaging vector, one interrupt each, and nothing else does",
    source="RFC v1 4/7: MULTIKERNEL_VECTOR",
)
@pytest.mark.needs("messages")
def test_messages(pair: Pair, seen: Seen) -> None:
    to_spawned, to_host = secrets.token_bytes(16), secrets.token_bytes(16)
    with watch(pair.lab, pair.instance) as border:
        messaging.send(pair.host, pair.lab.dialect.to_spawned(pair.instance), to_spawned)
        messaging.wait_for(pair.spawned, to_spawned)
        messaging.send(pair.spawned, pair.lab.dialect.to_host, to_host)
        messaging.wait_for(pair.host, to_host)
    require_apart(border, seen)
    name = pair.spawned.name
    crossed = Counter((crossing.source, crossing.target, crossing.vector) for crossing in border.crossings)
    assert crossed == {("host", name, 0xEA): 1, (name, "host", 0xEA): 1}


@claim(
    "the host takes a CPU offline and online while a spawned kernel runs, and calls no other", source=GLOBAL
)
def test_hotplug(pair: Pair, seen: Seen) -> None:
    cpu = max(set(range(1, pair.lab.topology.vcpus)) - set(pair.instance.spawned.cpus))
    file = f"/sys/devices/system/cpu/cpu{cpu}/online"
    with watch(pair.lab, pair.instance) as border:
        pair.host.run(f"echo 0 >{file}; echo 1 >{file}")
    called = {ipi.destination for ipi in ipis(border.writes) if ipi.delivery in {"init", "startup"}}
    require_apart(border, seen)
    assert called == {cpu}, "the CPU did not go"


@claim(
    "a host whose CPUs call each other all the time never calls a spawned kernel's",
    source=HAJNOCZI,
)
def test_host_load(pair: Pair, seen: Seen) -> None:
    with watch(pair.lab, pair.instance) as border:
        pair.host.run(CALLS, timeout=30)
    calls = [ipi for ipi in ipis(border.writes) if ipi.vector in CALL_VECTORS]
    seen(f"{len(calls)} interrupts between the host's CPUs")
    assert len(calls) >= SHOTS, "there was no load"
    require_apart(border, seen)


@claim(
    "a spawned kernel whose CPUs call each other all the time, and stop each other at its end, never calls"
    " its host's",
    source=HAJNOCZI,
)
@pytest.mark.needs("cpus")
def test_spawned_load(lab: Lab, seen: Seen) -> None:
    # With two it would call the other one by name; all but itself are a choice from three on.
    cpus = tuple(range(1, lab.topology.vcpus))
    lab.topology = replace(lab.topology, spawned=(replace(lab.topology.spawned[0], cpus=cpus),))
    pair = lab.pair()
    with watch(lab, pair.instance, during=["stop"]) as border:
        pair.spawned.run(CALLS, timeout=30)
        pair.spawned.console.send(f"{ENDS['poweroff']}\n")
        wait_for_end(pair)
    calls = [ipi for ipi in ipis(border.writes) if ipi.vector in CALL_VECTORS]
    seen(f"{len(calls)} interrupts between the {len(cpus)} CPUs of {pair.spawned.name}")
    require_apart(border, seen)
    assert len(calls) >= SHOTS, "there was no load"
    assert pair.host.run("echo alive") == "alive"


@claim(
    "a host that panics stops no CPU but its own, and a spawned kernel runs on",
    source="RFC v1 0/7: fault isolation between kernels",
)
@pytest.mark.trespass("there is no host any more to ask what is whose")
def test_host_panic(pair: Pair, seen: Seen) -> None:
    console = pair.host.console
    with (
        watch(pair.lab, pair.instance) as border,
        console.expected("panic|sysrq|crash|NULL|BUG|Oops", required=False),
    ):
        console.send(f"{ENDS['panic']}\n")
        limit = time.monotonic() + END_LIMIT * pair.lab.accel.factor
        while b"end Kernel panic" not in console.transcript and time.monotonic() < limit:
            time.sleep(0.1)
    assert b"end Kernel panic" in console.transcript, "it did not panic"
    require_apart(border, seen)
    assert pair.spawned.run("echo alive") == "alive"


@claim(
    "a kernel that is stopped by force loses its own CPUs and nobody else's",
    source="multikernel tree: LINUX_REBOOT_CMD_MULTIKERNEL_HALT_FORCE",
)
@pytest.mark.needs("force")
def test_stopped_by_force(payload: Payload, mk: Interface, lab: Lab, seen: Seen) -> None:
    payload.last_command("spin")
    with watch(lab, payload.instance, during=["stop"]) as border:
        mk.force(payload.instance.id).require()
    called = {ipi.destination for ipi in ipis(border.writes) if ipi.delivery in {"init", "nmi"}}
    require_apart(border, seen)
    assert called == set(payload.instance.apic_ids)
