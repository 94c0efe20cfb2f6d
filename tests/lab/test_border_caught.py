# SPDX-License-Identifier: MIT
"""A bad kernel that reaches across the border is caught each time, and named: the payload."""

from __future__ import annotations

import pytest

from harness.border import watch
from harness.lab import Lab
from harness.multikernel.payload import Payload

CASES = (
    ("ipi 0 0xfd", "alpha sent host IPI, vector 0xfd, 1 times"),
    ("ipi 1 0x4400", "alpha sent host IPI, NMI, 1 times"),
    ("ipi 0 0xc00fd", "alpha sent host IPI, vector 0xfd to all-but-self, 1 times"),
    ("poke 0xfee02000 0xfd 4", "alpha sent host interrupt message, vector 0xfd, 1 times"),
    ("out 0x43 0x30", "alpha wrote 1 times to host's PIT"),
    ("poke 0xfec00000 1 4", "alpha wrote 1 times to host's IO-APIC"),
    ("out 0x3ef 1", "alpha wrote 1 times to host's serial line host"),
    ("out 0xcf8 0x80000000 4", "alpha wrote 1 times to host's PCI configuration address"),
    ("ipi 1 0x4500", "alpha sent host IPI, INIT, 1 times"),
)
"""What the payload does, and what is to be said of it; what ends a CPU comes last."""


@pytest.mark.needs("spawn")
@pytest.mark.trespass("it is what these tests are about")
def test_caught(payload: Payload, lab: Lab) -> None:
    with lab.machine.console("host").expected("NMI", required=False):
        for command, finding in CASES:
            with watch(lab, payload.instance) as border:
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
