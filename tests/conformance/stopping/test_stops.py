# SPDX-License-Identifier: MIT
"""How a spawned kernel is stopped, whatever it does: shown with the payload, as bad as one can be."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest

from harness.lab import Lab
from harness.multikernel.interface import Interface
from harness.multikernel.payload import Payload, grant_payload
from harness.oracle.pulse import Pulse
from harness.plugin import Seen, claim
from harness.vm.state import Cause

pytestmark = pytest.mark.needs("spawn")

CYCLES = 50
STATE_LIMIT = 5.0
"""Seconds until the host has noticed that a spawned kernel stopped, before scaling."""


def becomes(true: Callable[[], bool], factor: float) -> bool:
    deadline = time.monotonic() + STATE_LIMIT * factor
    while not true():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


@pytest.fixture
def pulse(payload: Payload, lab: Lab) -> Pulse:
    return Pulse(lab.machine, payload.command("beat").number("address"), payload.instance.apic_ids)


@claim(
    "a kernel that is asked to stop says so, and its CPU stands still when the call returns",
    source="multikernel tree: LINUX_REBOOT_CMD_MULTIKERNEL_HALT waits for the acknowledgement",
)
@pytest.mark.needs("halt")
def test_graceful_halt(payload: Payload, pulse: Pulse, mk: Interface, seen: Seen) -> None:
    assert pulse.beating(), "its counter in memory does not advance"
    began = time.monotonic()
    mk.halt(payload.instance.id).require()
    took = time.monotonic() - began
    assert pulse.stopped()
    assert mk.state(payload.instance.name) == "ready"
    assert payload.console.saw("payload: stop\\b")
    seen(f"stopped {took * 1000:.0f} ms after being asked, at {pulse.beats} beats")


@claim(
    "a kernel that refuses to stop is stopped by force, and who waits for it to agree returns then",
    source="multikernel tree: LINUX_REBOOT_CMD_MULTIKERNEL_HALT_FORCE",
)
@pytest.mark.needs("halt", "force")
def test_refused_halt(payload: Payload, pulse: Pulse, mk: Interface, lab: Lab, seen: Seen) -> None:
    payload.command("refuse 1")
    ask = mk.numbers.halt
    lab.host.run(
        f"(mkctl multikernel {ask:#x} {payload.instance.id}; echo $? >/run/asked) >/run/asking 2>&1 &"
    )
    payload.console.expect(r"payload: halt refused\r\n")
    assert mk.state(payload.instance.name) == "active"
    assert pulse.beating()
    assert lab.host.run("cat /run/asked 2>/dev/null || true") == "", "the caller did not wait for the kernel"
    mk.force(payload.instance.id).require()
    assert mk.state(payload.instance.name) == "ready"
    assert pulse.stopped()
    assert becomes(lambda: lab.host.run("cat /run/asked 2>/dev/null || true") == "0", lab.host.factor), (
        "it waits for ever"
    )
    seen("refused, stopped by force")


@claim(
    "who is interrupted by a signal while a kernel is asked to stop is told so, and not that it stopped",
    source="kernels/reference/README.md: EINTR a signal came, the request stands",
)
@pytest.mark.needs("halt", "force")
def test_interrupted_halt(payload: Payload, mk: Interface, lab: Lab, seen: Seen) -> None:
    id, name = payload.instance.id, payload.instance.name
    payload.command("refuse 1")
    ended = "cat /run/ended 2>/dev/null || true"
    # To be stopped and continued is a signal that needs no handler, see signal(7).
    lab.host.run(
        f"(mkctl multikernel {mk.numbers.halt:#x} {id} & echo $! >/run/asks; wait $!; echo $? >/run/ended)"
        " >/run/asked 2>&1 &"
    )
    payload.console.expect(r"payload: halt refused\r\n")
    assert lab.host.run(ended) == "", "the caller did not wait for the kernel"
    lab.host.run("until [ -s /run/asks ]; do usleep 10000; done")
    lab.host.run("kill -STOP $(cat /run/asks); sleep 0.2; kill -CONT $(cat /run/asks)")
    assert becomes(lambda: lab.host.run(ended) != "", lab.host.factor), "it waits on"
    told, state = lab.host.read("/run/asked").strip(), mk.state(name)
    seen(f"{told}; {state}")
    assert "Interrupted system call" in told, (
        f"a halt that a signal interrupted ended with {told!r}, not EINTR"
    )
    assert state == "active"
    mk.force(id).require()
    assert mk.state(name) == "ready"


@claim(
    "a kernel that does nothing with its interrupts off is stopped by force, and its CPU runs the next one",
    source="multikernel tree: LINUX_REBOOT_CMD_MULTIKERNEL_HALT_FORCE",
)
@pytest.mark.needs("halt", "force")
@pytest.mark.parametrize("how", ["spin", "hang"])
def test_deaf_kernel(payload: Payload, pulse: Pulse, mk: Interface, how: str, seen: Seen) -> None:
    payload.last_command(how)
    before = pulse.beats
    mk.force(payload.instance.id).require()
    assert mk.state(payload.instance.name) == "ready"
    assert pulse.stopped()
    assert pulse.beats == before, f"it did not {how}"
    payload.load()
    payload.start()
    seen(f"{how}, stopped by force, started again: {payload.beats()} beats")


@claim(
    "a kernel that stops by itself leaves its instance ready, one that crashed failed until it is unloaded",
    source="kernels/reference/README.md: states",
)
@pytest.mark.needs("halt")
@pytest.mark.parametrize(("how", "state"), [("stop", "ready"), ("crash", "failed")])
def test_stops_by_itself(
    payload: Payload, pulse: Pulse, mk: Interface, seen: Seen, *, how: str, state: str
) -> None:
    id, name = payload.instance.id, payload.instance.name
    payload.last_command(how)
    assert becomes(lambda: mk.state(name) == state, payload.host.factor), f"after {how}: {mk.state(name)}"
    assert pulse.stopped()
    assert mk.start(id).error == "EINVAL", "its image was used up"
    if state == "failed":
        mk.unload(id).require()
    assert mk.state(name) == "ready"
    payload.load()
    payload.start()
    seen(f"{how}: {state}; then started again")


@claim(
    "an instance is started and stopped 50 times, each time like the first, and gives everything back",
    source="issues 20 and 35 of the multikernel tree: spawn again after a stop",
)
@pytest.mark.needs("halt")
def test_fifty_cycles(lab: Lab, mk: Interface, seen: Seen) -> None:
    granted = lab.topology.spawned[0]
    before = lab.host.iomem(), lab.host.apic_ids()
    payload = grant_payload(lab, granted)
    boots, times = [], []
    for _ in range(CYCLES):
        began = time.monotonic()
        payload.load()
        boots.append(payload.start())
        mk.halt(granted.id).require()
        times.append(time.monotonic() - began)
    seen(f"{CYCLES} times, {sorted(times)[CYCLES // 2] * 1000:.0f} ms each (median)")
    assert {(boot.image, boot.e820, boot.granted) for boot in boots} == {
        (boots[0].image, boots[0].e820, boots[0].granted)
    }
    # Slots for messages are few; one that was not given back would be missed by now.
    assert {boot.told["slot"] for boot in boots} == {boots[0].told["slot"]}
    mk.remove(granted.name).require()
    assert (lab.host.iomem(), lab.host.apic_ids()) == before
    assert lab.host.console.splats() == ()


@claim(
    "a triple fault in a spawned kernel resets the whole machine: x86 leaves no way to contain it",
    source="Intel SDM vol. 3, interrupt 8: shutdown; design.md: a property, not a finding",
)
def test_triple_fault_is_not_contained(payload: Payload, lab: Lab, seen: Seen) -> None:
    payload.last_command("fault")
    cause = lab.machine.wait_end(timeout=20)
    seen(cause.value)
    assert cause is Cause.RESET
