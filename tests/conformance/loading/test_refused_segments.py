# SPDX-License-Identifier: MIT
"""kexec_load(2) for spawned kernels, as in v1: segments go where user space says, so that must be checked."""

import struct

import pytest

from harness.lab import Lab
from harness.multikernel import calls
from harness.multikernel.kimage import Image, parse_kimage
from harness.multikernel.segments import FLAGS, ON_CRASH, PAGE, PRESERVE_CONTEXT, load, load_call
from harness.plugin import Seen, claim

pytestmark = pytest.mark.needs("segments")


def images(lab: Lab) -> tuple[Image, ...]:
    return parse_kimage(lab.host.read(lab.dialect.kimage))


ELSEWHERE = {
    "free memory of the host": 0x1000_0000,
    "the host's own text": 0x100_0000,
    "the local APIC": 0xFEE0_0000,
    "beyond the memory that there is": 0x40_0000_0000,
}


@claim(
    "an image lies in memory set aside for spawned kernels, with its entry, and over no other image",
    source="RFC v1 1/7; known bug V1-01: the checks are compiled out",
)
@pytest.mark.parametrize("where", [*ELSEWHERE, "the entry elsewhere", "over another image"])
def test_place(lab: Lab, seen: Seen, where: str) -> None:
    start = lab.topology.pool.start
    address = ELSEWHERE.get(where, start)
    entry = 0x1000_0000 if where == "the entry elsewhere" else address
    if where == "over another image":
        load(lab.host, f"4096@{start:#x}+4096", start).require()
    # One byte of data: enough to be told, hardly enough to kill.
    outcome = load(lab.host, f"1@{address:#x}+4096", entry)
    seen(f"{where}: {outcome.error or 'accepted'}")
    listed = len(images(lab))
    assert outcome.error in {"EADDRNOTAVAIL", "EINVAL"}, f"{where}: taken, {listed} images are listed"


@claim(
    "an image is no spawned kernel and something else at the same time",
    source="known bug V1-06: what takes over after a crash was never prepared for that",
)
@pytest.mark.parametrize("also", ["crash", "jump"])
def test_two_kinds_at_once(lab: Lab, seen: Seen, also: str) -> None:
    # A crash kernel has to lie in the memory that is reserved for one; far behind the area for messages.
    (reserved,) = [r.region for r in lab.host.iomem() if r.name == "Crash kernel"]
    place = reserved.end - (4 << 20) if also == "crash" else lab.topology.pool.start
    flag = ON_CRASH if also == "crash" else PRESERVE_CONTEXT
    outcome = load(lab.host, f"64@{place:#x}+4096", place, FLAGS | flag)
    listed = [image.type for image in images(lab)]
    armed = lab.host.read("/sys/kernel/kexec_crash_loaded").strip()
    seen(f"{also}: {outcome.error or 'accepted'}; listed: {listed}; kexec_crash_loaded is {armed}")
    assert outcome.error == "EINVAL"


def segment(buffer: int, size: int, address: int, memory: int) -> str:
    """Return one struct kexec_segment as an argument."""
    return "hex:" + struct.pack("<4Q", buffer, size, address, memory).hex()


@claim(
    "arguments that contradict themselves or lie beyond their limits are refused, and nothing is listed then",
    source="kexec_load(2): EINVAL, EFAULT, EADDRNOTAVAIL; at most 16 segments",
)
def test_arguments(lab: Lab, seen: Seen) -> None:
    start = lab.topology.pool.start
    good = segment(0x1000, 64, start, PAGE)
    lines = {
        "17 segments": f"kexec_load {start:#x} 17 unmapped {FLAGS:#x}",
        "2^32 segments": f"kexec_load {start:#x} {1 << 32} unmapped {FLAGS:#x}",
        "-1 segments": f"kexec_load {start:#x} -1 unmapped {FLAGS:#x}",
        "segments at NULL": f"kexec_load {start:#x} 1 null {FLAGS:#x}",
        "segments at no address": f"kexec_load {start:#x} 1 unmapped {FLAGS:#x}",
        "segments in the kernel": f"kexec_load {start:#x} 1 kernel {FLAGS:#x}",
        "one segment too few": f"kexec_load {start:#x} 2 {good} {FLAGS:#x}",
        "data at no address": f"kexec_load {start:#x} 1 {good} {FLAGS:#x}",
        "data in the kernel": f"kexec_load {start:#x} 1 {segment(1 << 63, 64, start, PAGE)} {FLAGS:#x}",
        "another architecture": f"kexec_load {start:#x} 1 {good} {FLAGS & 0xFFFF | 3 << 16:#x}",
        "an unknown flag": f"kexec_load {start:#x} 1 {good} {FLAGS | 0x20:#x}",
        "all flags": f"kexec_load {start:#x} 1 {good} -1",
        "not on a page": load_call(f"64@{start + 1:#x}+4096", start),
        "of half a page": load_call(f"64@{start:#x}+2048", start),
        "more data than memory": load_call(f"8192@{start:#x}+4096", start),
        "over the end of addresses": load_call(f"64@{(1 << 64) - PAGE:#x}+8192", start),
        "one over the other": load_call(f"64@{start:#x}+8192,64@{start + PAGE:#x}+8192", start),
    }
    outcomes = calls.calls(lab.host, lines.values())
    for what, outcome in zip(lines, outcomes, strict=True):
        seen(f"{what}: {outcome.error or 'accepted'}")
    assert {outcome.error for outcome in outcomes} <= {"EINVAL", "EFAULT", "EADDRNOTAVAIL"}
    assert images(lab) == ()


@claim(
    "who may not load, loads nothing",
    source="kexec_load(2): EPERM; Documentation/admin-guide/sysctl/kernel.rst: kexec_load_disabled",
)
@pytest.mark.parametrize("why", ["another user", "kexec_load_disabled"])
def test_who_may_not(lab: Lab, seen: Seen, why: str) -> None:
    start = lab.topology.pool.start
    line = load_call(f"64@{start:#x}+4096", start)
    if why == "kexec_load_disabled":
        lab.host.run("echo 1 >/proc/sys/kernel/kexec_load_disabled")
    outcome = calls.call(lab.host, line if why == "kexec_load_disabled" else f"uid:1000 {line}")
    seen(f"{why}: {outcome.error or 'accepted'}")
    assert outcome.error == "EPERM"
    assert images(lab) == ()
