# SPDX-License-Identifier: MIT
"""What the host's log tells everybody who may read it."""

import re

import pytest

from harness.lab import Lab
from harness.multikernel.payload import spawn_payload
from harness.plugin import Seen, claim

pytestmark = pytest.mark.needs("spawn")

RAW_POINTER = re.compile(r"\b(0x)?(?!f{16})(ffff[89a-f][0-9a-f]{11}|00007f[0-9a-f]{10})\b")
"""An address of the kernel's or of a process', as it is and not hashed; sixteen times f is no address."""


@claim(
    "granting, loading and starting a kernel prints no addresses of the host kernel or of its processes",
    source="known bug V1-13: %px; Documentation/core-api/printk-formats.rst",
)
def test_no_pointers(lab: Lab, seen: Seen) -> None:
    before = len(lab.host.run("dmesg").splitlines())
    spawn_payload(lab, lab.topology.spawned[0])
    lines = lab.host.run("dmesg").splitlines()[before:]
    wrong = [line for line in lines if RAW_POINTER.search(line)]
    seen("; ".join(line.partition("] ")[2] for line in wrong) or f"{len(lines)} lines")
    assert not wrong, "\n".join(wrong)
