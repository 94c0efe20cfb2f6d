# SPDX-License-Identifier: MIT
"""A payload that says that it will hang or spin is waited for until it does: until then its stack changes."""

from __future__ import annotations

import threading
import time

import pytest

from harness.errors import HarnessError
from harness.lab import Lab
from harness.multikernel import payload as module
from harness.multikernel.payload import INTERRUPTS_ON, spawn_payload
from harness.vm.lapic import apic_ids
from harness.vm.registers import registers_of

LATER = 0.5


@pytest.mark.parametrize("how", ["hang", "spin"])
def test_waited_for(lab: Lab, how: str) -> None:
    """What lies between its word and its deed is made half a second long."""
    payload = spawn_payload(lab, lab.topology.spawned[0])
    payload.command("beat")
    began = time.monotonic()
    threading.Timer(LATER, payload._send, (how,)).start()
    payload._await_deaf(how)
    assert time.monotonic() - began > LATER
    vcpu = apic_ids(lab.machine).index(payload.boot.apic_id)
    assert not registers_of(lab.machine.qmp)[vcpu]["RFL"] & INTERRUPTS_ON


def test_told_that_it_goes_on(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    payload = spawn_payload(lab, lab.topology.spawned[0])
    monkeypatch.setattr(module, "ANSWER_LIMIT", 0.2)
    with pytest.raises(HarnessError, match="was told to hang, and its interrupts are on"):
        payload._await_deaf("hang")
