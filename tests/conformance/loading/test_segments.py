# SPDX-License-Identifier: MIT
"""kexec_load(2) for spawned kernels, as in v1: segments go where user space says, so that must be checked."""

import pytest

from harness.lab import Lab
from harness.multikernel import calls
from harness.plugin import Seen, claim

pytestmark = pytest.mark.needs("segments")

FLAGS = 62 << 16 | 0x10
"""x86-64 and KEXEC_MULTIKERNEL. Source: RFC v1 1/7."""
UNLOAD = f"kexec_load 0 0 null {FLAGS:#x}"
PAGE = 4096


def load(lab: Lab, segments: str, *, entry: int | None = None, flags: int = FLAGS) -> calls.Outcome:
    first = lab.topology.pool.start if entry is None else entry
    count = segments.count("@")
    return calls.call(lab.host, f"kexec_load {first:#x} {count} segments:{segments} {flags:#x}", limit=10)


@claim(
    "an image that lies in reserved memory is loaded, listed, and unloaded",
    source="RFC v1 1/7, 7/7: kexec_load with KEXEC_MULTIKERNEL, /proc/multikernel",
)
def test_loaded(lab: Lab, seen: Seen) -> None:
    start = lab.topology.pool.start
    load(lab, f"4096@{start:#x}+4096,100@{start + PAGE:#x}+8192").require()
    listed = lab.host.read("/proc/multikernel").splitlines()[-1].split()
    calls.call(lab.host, UNLOAD).require()
    after = lab.host.read("/proc/multikernel").splitlines()[-1]
    seen(f"{listed}, then {after!r}")
    assert listed[0] == "multikernel"
    assert (int(listed[1], 16), int(listed[2])) == (start, 2)
    assert "multikernel" not in after


@claim("unloading takes every image away, however many", source="known bug: at most 10 at a time")
def test_many(lab: Lab, seen: Seen) -> None:
    start, images = lab.topology.pool.start, 12
    for number in range(images):
        load(lab, f"64@{start + number * PAGE:#x}+4096").require()
    calls.call(lab.host, UNLOAD).require()
    left = lab.host.read("/proc/multikernel").count("multikernel ")
    seen(f"{left} of {images} are left")
    assert left == 0


HOST_MEMORY = {
    "free memory of the host": 0x1000_0000,
    "the host's own text": 0x100_0000,
    "the local APIC": 0xFEE0_0000,
    "beyond the memory that there is": 0x40_0000_0000,
}


@claim(
    "a segment that does not lie in memory set aside for spawned kernels is refused",
    source="known bug V1-01: the check is compiled out",
)
@pytest.mark.parametrize("where", HOST_MEMORY)
def test_foreign_memory(lab: Lab, seen: Seen, where: str) -> None:
    address = HOST_MEMORY[where]
    # One byte of data: enough to be told, hardly enough to kill.
    outcome = load(lab, f"1@{address:#x}+4096", entry=address)
    seen(f"{where}: {outcome.error or 'accepted'}")
    assert outcome.error in {"EADDRNOTAVAIL", "EINVAL"}, f"{where} was overwritten"


@claim("an entry point outside of the segments is refused", source="known bug V1-01")
def test_entry(lab: Lab, seen: Seen) -> None:
    start = lab.topology.pool.start
    outcome = load(lab, f"64@{start:#x}+4096", entry=0x1000_0000)
    seen(outcome.error or "accepted")
    assert not outcome.ok


@claim("segments that contradict themselves are refused", source="kexec_load(2): EINVAL, EADDRNOTAVAIL")
def test_impossible_segments(lab: Lab, seen: Seen) -> None:
    start = lab.topology.pool.start
    wrong = {
        "not on a page": f"64@{start + 1:#x}+4096",
        "of half a page": f"64@{start:#x}+2048",
        "more data than memory": f"8192@{start:#x}+4096",
        "over the end of addresses": f"64@{(1 << 64) - PAGE:#x}+8192",
        "one over the other": f"64@{start:#x}+8192,64@{start + PAGE:#x}+8192",
    }
    taken = []
    for what, segments in wrong.items():
        outcome = load(lab, segments)
        seen(f"{what}: {outcome.error or 'accepted'}")
        if outcome.ok:
            taken.append(str(outcome))
    assert not taken, "\n".join(taken)


@claim("a spawned kernel's image is no crash kernel at the same time", source="known bug V1-06")
def test_on_crash(lab: Lab, seen: Seen) -> None:
    outcome = load(lab, f"64@{lab.topology.pool.start:#x}+4096", flags=FLAGS | 1)
    seen(outcome.error or "accepted")
    assert not outcome.ok


@claim(
    "what the kernel prints gives no pointers away, and no decimal number behind 0x", source="known bug V1-13"
)
def test_messages(lab: Lab, seen: Seen) -> None:
    start = lab.topology.pool.start
    load(lab, f"64@{start:#x}+36864").require()
    lines = [line for line in lab.host.run("dmesg").splitlines() if "multikernel segment" in line]
    seen("; ".join(line.partition("] ")[2] for line in lines))
    wrong = [line for line in lines if "memsz=0x36864" in line]
    assert not wrong, "\n".join(wrong)


@claim("the unprivileged load nothing", source="kexec_load(2): EPERM")
def test_unprivileged(lab: Lab, seen: Seen) -> None:
    line = f"kexec_load 0 1 segments:64@{lab.topology.pool.start:#x}+4096 {FLAGS:#x}"
    outcome = calls.call(lab.host, f"uid:1000 {line}")
    seen(outcome.error or "accepted")
    assert outcome.error == "EPERM"


@claim("a CPU that is the host's, or is not there, starts nothing", source="RFC v1 2/7: EBUSY, EINVAL")
def test_wrong_cpu(lab: Lab, seen: Seen) -> None:
    load(lab, f"64@{lab.topology.pool.start:#x}+4096").require()
    wrong = {
        0: "EBUSY",
        1: "EBUSY",
        lab.topology.vcpus: "EINVAL",
        4096: "EINVAL",
        -1: "EINVAL",
        1 << 30: "EINVAL",
    }
    for cpu, error in wrong.items():
        outcome = calls.call(lab.host, f"reboot 0xfee1dead 672274793 0x4D4B4C49 i32:{cpu}", limit=10)
        seen(f"CPU {cpu}: {outcome.error or 'accepted'}")
        assert outcome.error == error, outcome
