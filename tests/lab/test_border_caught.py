# SPDX-License-Identifier: MIT
"""A bad kernel that reaches across the border is caught each time, and named: the payload."""

from __future__ import annotations

import pytest

from harness.border import watch
from harness.lab import Lab
from harness.multikernel.payload import Payload

CASES = {
    "plain IPI": ("ipi 0 0xfd", "alpha sent host IPI, vector 0xfd, 1 times"),
    "NMI": ("ipi 1 0x4400", "alpha sent host IPI, NMI, 1 times"),
    "broadcast": ("ipi 0 0xc00fd", "alpha sent host IPI, vector 0xfd to all-but-self, 1 times"),
    "INIT": ("ipi 1 0x4500", "alpha sent host IPI, INIT, 1 times"),
    "interrupt message": (
        "poke 0xfee02000 0xfd 4",
        "alpha sent host interrupt message, vector 0xfd, 1 times",
    ),
    "PIT": ("out 0x43 0x30", "alpha wrote 1 times to host's PIT"),
    "IO-APIC": ("poke 0xfec00000 1 4", "alpha wrote 1 times to host's IO-APIC"),
    "serial line": ("out 0x3ef 1", "alpha wrote 1 times to host's serial line host"),
    "PIC": ("out 0x21 0xff", "alpha wrote 1 times to host's PIC"),
}


@pytest.mark.needs("spawn")
@pytest.mark.trespass("it is what these tests are about")
@pytest.mark.parametrize("what", CASES)
def test_caught(payload: Payload, lab: Lab, what: str) -> None:
    command, finding = CASES[what]
    with (
        lab.machine.console("host").expected("NMI", required=False),
        watch(lab, payload.instance) as border,
    ):
        payload.command(command)
    (found,) = border.findings()
    assert found.what == finding
    assert "vCPU 3" in found.evidence[0].text


@pytest.mark.needs("spawn")
def test_nothing_is_caught_that_was_not_done(payload: Payload, lab: Lab) -> None:
    with watch(lab, payload.instance) as border:
        payload.command("peek 0x1000")
        payload.command("in 0x61")
        payload.command("ipi 3 0xfd")
    assert border.findings() == ()
