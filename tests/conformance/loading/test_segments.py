# SPDX-License-Identifier: MIT
"""kexec_load(2) for spawned kernels, as in v1: what is there afterwards, and where."""

import re

import pytest

from harness.lab import Lab
from harness.model import Region, without
from harness.multikernel import calls, census
from harness.multikernel.interface import MAGIC1, MAGIC2
from harness.multikernel.kimage import Image, parse_kimage
from harness.multikernel.payload import grant_payload
from harness.multikernel.segments import PAGE, UNLOAD, load, load_call
from harness.plugin import Seen, claim
from harness.vm.ram import ram_of
from harness.vm.ram_scan import digests, regions_of

pytestmark = [
    pytest.mark.needs("segments"),
    pytest.mark.trespass("segments go where the test says, and no instance has that memory"),
]

REBOOT_CMD_KEXEC = 0x45584543
ORDINARY = "kexec_file_load fd:/boot/bzImage -1 1 s: 0x4"
RAW_POINTER = re.compile(r"\b(0x)?(ffff[89a-f]|00007f)[0-9a-f]{10,11}\b")
"""An address of the kernel's, or of a process', that was not hashed."""


def images(lab: Lab) -> tuple[Image, ...]:
    return parse_kimage(lab.host.read(lab.dialect.kimage))


@claim(
    "an image is copied to its addresses and nowhere else (from outside), is listed, and is unloaded",
    source="RFC v1 1/7, 7/7: kexec_load with KEXEC_MULTIKERNEL, /proc/multikernel",
)
def test_loaded(lab: Lab, seen: Seen) -> None:
    ram, pool = ram_of(lab.machine), lab.topology.pool.region
    first, second = Region(pool.start, 12288), Region(pool.start + (1 << 20), PAGE)
    before = digests(ram)
    segments = f"5000@{first.start:#x}+{first.size},4096@{second.start:#x}+{second.size}"
    load(lab.host, segments, first.start).require()
    changed = [one for one in regions_of(digests(ram).changed_since(before)) if pool.overlaps(one)]
    listed = images(lab)
    calls.call(lab.host, UNLOAD).require()
    seen(f"{listed}; in the pool changed: {', '.join(map(str, changed))}")
    assert [(image.type, image.start, image.segments) for image in listed] == [("multikernel", pool.start, 2)]
    assert ram.read(first.start, first.size) == b"\xa5" * 5000 + bytes(first.size - 5000)
    assert ram.read(second.start, second.size) == b"\xa5" * PAGE
    assert without(changed, (first, second)) == ()
    assert images(lab) == ()


@claim("unloading takes every image away, however many", source="RFC v1 1/7: unloading removes all images")
def test_many(lab: Lab, seen: Seen) -> None:
    start, images = lab.topology.pool.start, 12
    for number in range(images):
        load(lab.host, f"64@{start + number * PAGE:#x}+4096", start).require()
    calls.call(lab.host, UNLOAD).require()
    left = lab.host.read("/proc/multikernel").count("multikernel ")
    seen(f"{left} of {images} are left")
    assert left == 0


@claim(
    "what the kernel prints gives no pointers away, and no decimal number behind 0x", source="known bug V1-13"
)
def test_messages(lab: Lab, seen: Seen) -> None:
    start = lab.topology.pool.start
    load(lab.host, f"64@{start:#x}+36864", start).require()
    lines = [line for line in lab.host.run("dmesg").splitlines() if "multikernel" in line]
    wrong = [line for line in lines if "0x36864" in line or RAW_POINTER.search(line)]
    seen("; ".join(line.partition("] ")[2] for line in wrong) or f"{len(lines)} lines")
    assert not wrong, "\n".join(wrong)


@claim(
    "a kernel is loaded, started and ended 20 times on one CPU, each time like the first,"
    " and everything is given back: CPU, memory, the list of images",
    source="RFC v1 0/7: kernels come and go; issues 20 and 35 of the multikernel tree",
)
@pytest.mark.needs("spawn")
def test_again_and_again(lab: Lab, seen: Seen) -> None:
    before, boots = census.take(lab.host), []
    payload = grant_payload(lab, lab.topology.spawned[0])
    for _ in range(20):
        payload.load()
        boots.append(payload.start())
        payload.last_command("hang")
        calls.call(lab.host, UNLOAD).require()
    (cpu,) = payload.instance.spawned.cpus
    lab.host.run(f"echo 1 >/sys/devices/system/cpu/cpu{cpu}/online")
    lost = census.take(lab.host).lost_since(before)
    seen(
        f"{len(boots)} times in {boots[0].image}; "
        + ("; ".join(lost) or f"{', '.join(before.lists)} as before")
    )
    assert {(boot.image, boot.e820, boot.apic_id) for boot in boots} == {
        (boots[0].image, boots[0].e820, boots[0].apic_id)
    }
    assert not lost, "\n".join(lost)
    assert lab.host.run(f"taskset -c {cpu} echo runs") == "runs", f"nothing runs on CPU {cpu}"


@claim(
    "an ordinary kexec image and a spawned kernel's do not touch each other, in any order,"
    " and the host itself does not reboot into the latter",
    source="RFC v1 6/7: images of several kinds at once",
)
@pytest.mark.needs("kexec")
@pytest.mark.parametrize("order", ["ordinary first", "spawned first"])
def test_beside_an_ordinary_image(lab: Lab, seen: Seen, order: str) -> None:
    start = lab.topology.pool.start
    spawned = load_call(f"64@{start:#x}+4096", start)
    lines = [ORDINARY, spawned] if order == "ordinary first" else [spawned, ORDINARY]
    told = []
    if order == "spawned first":
        calls.call(lab.host, spawned).require()
        outcome = calls.call(lab.host, f"reboot {MAGIC1:#x} {MAGIC2} {REBOOT_CMD_KEXEC:#x} null")
        assert outcome.error == "EINVAL", f"the host itself reboots into it: {outcome}"
        calls.call(lab.host, UNLOAD).require()
    for line in (*lines, UNLOAD, "kexec_file_load -1 -1 0 null 0x1"):
        calls.call(lab.host, line, limit=20).require()
        loaded = lab.host.read("/sys/kernel/kexec_loaded").strip()
        told.append((sorted(image.type for image in images(lab)), loaded))
    seen(f"{order}: " + ", ".join(f"{types or 'nothing'} (kexec_loaded {loaded})" for types, loaded in told))
    first = (["default"], "1") if order == "ordinary first" else (["multikernel"], "0")
    assert told == [first, (["default", "multikernel"], "1"), (["default"], "1"), ([], "0")]


@claim(
    "loads and unloads without end, one by one or all at once beside readers, leave nothing and cost nothing",
    source="interface sheet KX-P4, KX-R1; reviewers of RFC v1: kexec corner cases",
)
@pytest.mark.parametrize("how", ["one by one", "seed 1", "seed 2"])
def test_without_end(lab: Lab, seen: Seen, how: str) -> None:
    start = lab.topology.pool.start
    lines = [f"{load_call(f'64@{place:#x}+4096', place)};{UNLOAD}" for place in (start, start + PAGE)]
    if how == "one by one":

        def ten_times() -> None:
            for outcome in calls.calls(lab.host, lines[0].split(";") * 10):
                outcome.require()

        allowed = {"MemFree": 10 * PAGE / 1024, "SUnreclaim": 10 * PAGE / 1024}
        lost = census.leak(lab.host, ten_times, allowed=allowed, warm_up=1)
        per_load = {name: amount / 10 for name, amount in lost.per_round.items()}
        seen(", ".join(f"{name} {amount:+.1f} KiB a load" for name, amount in per_load.items()))
        assert not lost.found, str(lost)
    else:
        reader = f"read fd:{lab.dialect.kimage} out:4096 4096"
        seed = int(how.removeprefix("seed "))
        steps = calls.race(lab.host, [*lines, *lines, reader, reader], seed=seed, seconds=3.0)
        seen(f"{how}: {sum(step.ended.get('', 0) for step in steps)} calls succeeded")
        for step in steps:
            assert set(step.ended) <= {"", "EBUSY"}, f"an unforeseen error: {step}"
        assert all(set(step.ended) == {""} for step in steps[-2:]), "a reader got an error"
        calls.call(lab.host, UNLOAD).require()
    assert images(lab) == ()
