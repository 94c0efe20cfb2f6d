# SPDX-License-Identifier: MIT
"""A payload that says that it will hang is waited for until it does: until then its stack changes."""

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


def test_waited_for(lab: Lab) -> None:
    """What lies between its word and its deed is made half a second long, in which it halts to rest."""
    payload = spawn_payload(lab, lab.topology.spawned[0])
    began = time.monotonic()
    threading.Timer(LATER, payload._send, ("hang",)).start()
    payload._await_hung()
    assert time.monotonic() - began > LATER
    registers = registers_of(lab.machine.qmp)[apic_ids(lab.machine).index(payload.boot.apic_id)]
    assert registers.halted
    assert not registers["RFL"] & INTERRUPTS_ON


def test_told_that_it_goes_on(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    payload = spawn_payload(lab, lab.topology.spawned[0])
    monkeypatch.setattr(module, "ANSWER_LIMIT", 0.2)
    with pytest.raises(HarnessError, match="was told to hang, and does not halt"):
        payload._await_hung()
