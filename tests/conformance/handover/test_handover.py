# SPDX-License-Identifier: MIT
"""The host kernel hands over to its successor: KHO, and the Live Update Orchestrator on top of it.

No series is needed: mainline has both. In the demo all these tests share one machine, in this order.
"""

import re
import struct

import pytest

from harness.kexec import kexec
from harness.lab import Lab
from harness.model import merged, without
from harness.multikernel.handover import DEVICE, KHO, METADATA, incoming, scratch
from harness.plugin import Seen, claim

KHO_DOCS = "Documentation/core-api/kho"
LUO_DOCS = "Documentation/userspace-api/liveupdate.rst"

pytestmark = pytest.mark.needs("kho")


@claim("memory for the successor to start in is set aside, inside the host's own RAM", source=KHO_DOCS)
def test_scratch(lab: Lab, seen: Seen) -> None:
    areas = scratch(lab.host)
    seen(", ".join(map(str, areas)) or "none")
    assert areas, "no scratch area, although KHO is on"
    assert without(areas, lab.host.system_ram()) == (), "a scratch area is not RAM"
    assert sum(area.size for area in merged(areas)) == sum(area.size for area in areas), "they overlap"


@claim("only one process at a time holds the live update device", source=LUO_DOCS)
@pytest.mark.needs("luo")
def test_one_holder(lab: Lab, seen: Seen) -> None:
    second = lab.host.channel.run(f"exec 3<{DEVICE}; cat {DEVICE}")
    seen(f"the second opener: {second.stderr.decode().strip()}")
    assert second.status != 0
    assert b"Device or resource busy" in second.stderr
    assert lab.host.channel.run(f"true <{DEVICE}").status == 0, "it stays busy after its holder is gone"


@claim("a kernel started by kexec finds what its predecessor handed over", source=KHO_DOCS)
def test_successor_finds_it(lab: Lab, seen: Seen) -> None:
    host = lab.host
    assert host.run(f"ls {KHO}") == "out", "something was handed over to a kernel without predecessor"
    before, areas = host.read("/proc/sys/kernel/random/boot_id"), scratch(host)
    kexec(lab)
    assert host.read("/proc/sys/kernel/random/boot_id") != before, "it is the same kernel"
    compatible = incoming(host).compatible
    # A version, a name of 65 bytes, a count.
    _, release, count = struct.unpack("<I65sI", host.channel.get(f"{KHO}/in/sub_fdts/{METADATA}"))
    seen(f"{compatible}, from Linux {release.rstrip(bytes(1)).decode()}, kexec number {count}")
    assert re.fullmatch(r"kho-v\d+", compatible)
    assert (release.rstrip(bytes(1)).decode(), count) == (lab.build.version, 1)
    assert scratch(host) == areas, "its scratch areas are not its predecessor's"
