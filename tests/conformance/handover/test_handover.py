# SPDX-License-Identifier: MIT
"""The host kernel hands over to its successor: KHO, and the Live Update Orchestrator on top of it.

No series is needed: mainline has both. In the demo all these tests share one machine, in this order.
"""

import re
import struct

import fdt
import pytest

from harness.lab import Lab
from harness.model import Region, merged, without
from harness.multikernel.kernel import Kernel
from harness.plugin import Seen, claim
from harness.vm.console import printed

KHO = "/sys/kernel/debug/kho"
LUO = "/dev/liveupdate"
KHO_DOCS = "Documentation/core-api/kho"
LUO_DOCS = "Documentation/userspace-api/liveupdate.rst"

REBOOT_CMD_KEXEC = 0x45584543
BOOT = 40.0
"""Seconds from kexec to the successor's user space, before scaling by the accelerator."""

pytestmark = pytest.mark.needs("kho")


def scratch(kernel: Kernel) -> list[Region]:
    """Return the scratch areas; an area that the kernel did not need has no size."""
    starts, sizes = (kernel.read(f"{KHO}/out/scratch_{what}").split() for what in ("phys", "len"))
    assert len(starts) == len(sizes), f"{len(starts)} addresses and {len(sizes)} sizes"
    pairs = [(int(start, 16), int(size, 16)) for start, size in zip(starts, sizes, strict=True)]
    return [Region(start, size) for start, size in pairs if size]


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
    second = lab.host.channel.run(f"exec 3<{LUO}; cat {LUO}")
    seen(f"the second opener: {second.stderr.decode().strip()}")
    assert second.status != 0
    assert b"Device or resource busy" in second.stderr
    assert lab.host.channel.run(f"true <{LUO}").status == 0, "it stays busy after its holder is gone"


@claim("a kernel started by kexec finds what its predecessor handed over", source=KHO_DOCS)
def test_successor_finds_it(lab: Lab, seen: Seen) -> None:
    host = lab.host
    assert host.run(f"ls {KHO}") == "out", "something was handed over to a kernel without predecessor"
    before, areas = host.read("/proc/sys/kernel/random/boot_id"), scratch(host)
    kexec(lab)
    assert host.read("/proc/sys/kernel/random/boot_id") != before, "it is the same kernel"
    tree = fdt.parse_dtb(host.channel.get(f"{KHO}/in/fdt"))
    compatible = tree.get_property("compatible").value
    # A version, a name of 65 bytes, a count.
    _, release, count = struct.unpack("<I65sI", host.channel.get(f"{KHO}/in/sub_fdts/kexec-metadata"))
    seen(f"{compatible}, from Linux {release.rstrip(bytes(1)).decode()}, kexec number {count}")
    assert re.fullmatch(r"kho-v\d+", compatible)
    assert (release.rstrip(bytes(1)).decode(), count) == (lab.build.version, 1)
    assert scratch(host) == areas, "its scratch areas are not its predecessor's"


def kexec(lab: Lab) -> None:
    """Start the host's own kernel in its place, with its own command line."""
    host = lab.host
    host.run('mkctl load-file /boot/bzImage /boot/initrd "$(cat /proc/cmdline)" 0', timeout=30)
    # Behind the agent's back: the command never ends.
    host.run(f"(sleep 0.2; exec mkctl multikernel {REBOOT_CMD_KEXEC:#x} 0) </dev/null >/dev/null 2>&1 &")
    host.console.expect("found kexec handover data", timeout=BOOT)
    host.console.expect(printed("mkh: user space is up on host"), timeout=BOOT)
    host.channel.wait_ready(BOOT)
