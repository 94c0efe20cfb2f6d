# SPDX-License-Identifier: MIT
"""Loading a kernel into an instance, and unloading it: what is there afterwards, and where."""

import pytest
from msgspec.structs import replace

from harness.definition import SpawnedKernel
from harness.lab import Lab
from harness.model import Region
from harness.multikernel import census
from harness.multikernel.interface import MAGIC1, MAGIC2, MOUNT, Interface
from harness.multikernel.payload import FILE as PAYLOAD
from harness.plugin import Seen, claim
from harness.vm.ram import ram_of
from harness.vm.ram_scan import digests, find, regions_of

pytestmark = pytest.mark.needs("instances")

REBOOT_CMD_KEXEC = 0x45584543


def row(mk: Interface, instance: SpawnedKernel) -> list[str]:
    return [f"{image.type} at {image.start:#x}" for image in mk.images() if image.id == instance.id]


@claim(
    "a loaded image is listed with its instance's id, and its entry lies in the instance's memory",
    source="RFC v2 10/16: /proc/kimage",
)
@pytest.mark.needs("kimage")
def test_listed(mk: Interface, ready: SpawnedKernel, seen: Seen) -> None:
    assert mk.images() == (), "nothing was loaded yet"
    mk.load(ready.id, initrd="/boot/initrd").require()
    (image,) = mk.images()
    region = mk.region(ready.name)
    seen(f"id {image.id}, {image.segments} segments, entry {image.start:#x} in {region}")
    assert (image.id, image.type) == (ready.id, "multikernel")
    assert region.start <= image.start < region.end
    assert image.segments > 0


@claim(
    "an instance takes an image whatever its id is, from 1 to 2047",
    source="RFC v2 15/16: 11 bits; known bug V2-01: the check of flags lets no id but 1 pass",
)
@pytest.mark.needs("kimage")
@pytest.mark.parametrize("id", [1, 2, 3, 1024, 2047])
def test_any_id(mk: Interface, alpha: SpawnedKernel, seen: Seen, id: int) -> None:
    mk.create(replace(alpha, id=id)).require()
    outcome = mk.load(id)
    listed = [image.id for image in mk.images()]
    seen(f"id {id}: {outcome.error or 'accepted'}, then images of instances {listed}")
    assert outcome.ok, outcome
    assert listed == [id]


@claim(
    "an instance's state tells whether it has an image",
    source="RFC v2 10/16 and multikernel tree: states of instances",
)
@pytest.mark.needs("unload")
def test_state(mk: Interface, ready: SpawnedKernel, seen: Seen) -> None:
    states = [mk.state(ready.name)]
    mk.load(ready.id).require()
    states.append(mk.state(ready.name))
    mk.unload(ready.id).require()
    states.append(mk.state(ready.name))
    seen(" -> ".join(states))
    assert states == ["ready", mk.numbers.loaded, "ready"]


@claim("unloading takes the image off the list", source="multikernel tree: unloading by id")
@pytest.mark.needs("unload", "kimage")
def test_unloaded(mk: Interface, loaded: SpawnedKernel, seen: Seen) -> None:
    before = row(mk, loaded)
    mk.unload(loaded.id).require()
    seen(f"{before} before, {row(mk, loaded)} after")
    assert before
    assert not row(mk, loaded), "the image is listed after it was unloaded"


@claim("an unloaded instance can be loaded again", source="known bug V2-07: the second load gets ENOMEM")
@pytest.mark.needs("unload")
def test_load_again(mk: Interface, ready: SpawnedKernel, seen: Seen) -> None:
    rounds = 20
    for number in range(rounds):
        outcome = mk.load(ready.id)
        assert outcome.ok, f"load {number + 1} of {rounds}: {outcome}"
        outcome = mk.unload(ready.id)
        assert outcome.ok, f"unload {number + 1} of {rounds}: {outcome}"
    seen(f"{rounds} times")


@claim(
    "an instance that had an image can be removed, and gives everything back",
    source="interface sheet RC-N2; known bug V2-07: its pool is destroyed with memory in use",
)
@pytest.mark.needs("unload", "remove")
def test_removed_after_unloading(lab: Lab, mk: Interface, alpha: SpawnedKernel, seen: Seen) -> None:
    before = census.take(lab.host)
    mk.create(alpha).require()
    mk.load(alpha.id).require()
    mk.unload(alpha.id).require()
    outcome = mk.remove(alpha.name)
    seen(f"rmdir: {outcome.error or 'accepted'}")
    assert outcome.ok, outcome
    lost = census.take(lab.host).lost_since(before)
    assert not lost, "\n".join(lost)


@claim(
    "an instance that has an image takes no second one, and keeps the first",
    source="RFC v2 15/16: EBUSY for an instance that has an image",
)
def test_second_image(mk: Interface, loaded: SpawnedKernel, seen: Seen) -> None:
    first = row(mk, loaded)
    outcome = mk.load(loaded.id)
    seen(f"{outcome.error or 'accepted'}; listed: {row(mk, loaded)}")
    assert outcome.error == "EBUSY"
    assert row(mk, loaded) == first


@claim(
    "the initrd and the kernel are copied into the instance's memory to the last byte, and nowhere else"
    " (seen from outside)",
    source="RFC v2 15/16: segments come from the instance's memory",
)
def test_destination(lab: Lab, mk: Interface, ready: SpawnedKernel, seen: Seen) -> None:
    # Bytes that are nowhere else: the host's own copies are in its page cache and in this file.
    # Their number is odd, and the last is not zero: no unit of copying takes them all by chance.
    pattern = bytes((37 * i * i + 11 * i) % 251 for i in range(4096)) * 3 + b"end"
    lab.host.channel.put("/run/initrd", pattern)
    ram, region, pool = ram_of(lab.machine), mk.region(ready.name), lab.topology.pool.region
    before = digests(ram)
    mk.load(ready.id, initrd="/run/initrd").require()
    found = list(find(ram, pattern, [region]))
    changed = regions_of(digests(ram).changed_since(before))
    foreign = [one for one in changed if pool.overlaps(one) and not region.contains(one)]
    seen(f"the initrd is at {', '.join(map(hex, found)) or 'no place'} in {region}")
    assert found, f"the initrd is not in {region}"
    assert not foreign, f"loading changed memory of the pool that is not {ready.name}'s: {foreign}"


@claim(
    "an ordinary kexec image and an instance's image do not touch each other, in any order",
    source="known bug V2-02: one replaces the other",
)
@pytest.mark.needs("kexec", "kimage")
@pytest.mark.parametrize("order", ["ordinary first", "instance first"])
def test_beside_an_ordinary_image(mk: Interface, ready: SpawnedKernel, seen: Seen, order: str) -> None:
    def ordinary() -> None:
        mk.call("kexec_file_load fd:/boot/bzImage -1 1 s: 0x4", limit=20).require()

    def instance() -> None:
        mk.load(ready.id).require()

    steps = (ordinary, instance) if order == "ordinary first" else (instance, ordinary)
    for step in steps:
        step()
    listed = sorted(image.type for image in mk.images())
    seen(f"{order}: {listed}")
    assert listed == ["default", "multikernel"]
    assert mk.host.read("/sys/kernel/kexec_loaded").strip() == "1"


@claim("unloading an ordinary kexec image leaves an instance's image", source="known bug V2-02")
@pytest.mark.needs("kexec", "kimage")
def test_ordinary_unload(mk: Interface, loaded: SpawnedKernel, seen: Seen) -> None:
    ordinary = "kexec_file_load fd:/boot/bzImage -1 1 s: 0x4"
    outcomes = [mk.call(ordinary, limit=20), mk.call("kexec_file_load -1 -1 0 null 0x1")]
    seen(f"{[image.type for image in mk.images()]} after it; {mk.state(loaded.name)}")
    assert all(outcome.ok for outcome in outcomes), list(map(str, outcomes))
    assert [image.type for image in mk.images()] == ["multikernel"]


@claim(
    "an instance's image does not count as a kernel to reboot into",
    source="known bug V2-02: kexec_loaded is 1",
)
def test_kexec_loaded(mk: Interface, loaded: SpawnedKernel, seen: Seen) -> None:
    said = mk.host.read("/sys/kernel/kexec_loaded").strip()
    seen(f"/sys/kernel/kexec_loaded is {said} while {loaded.name} has an image")
    assert said == "0"


@claim(
    "the host itself does not reboot into an instance's image",
    source="known bug V2-02: kexec -e jumps into it",
)
def test_reboot_by_kexec(mk: Interface, loaded: SpawnedKernel, seen: Seen) -> None:
    line = f"reboot {MAGIC1:#x} {MAGIC2} {REBOOT_CMD_KEXEC:#x} null"
    # Where it is obeyed, the host is gone.
    mk.host.later(f"echo {line} | mkctl calls {2 * mk.host.factor:.0f} >/run/outcome")
    outcome = mk.host.run("until [ -s /run/outcome ]; do usleep 50000; done; cat /run/outcome", timeout=6)
    seen(f"{outcome}; {loaded.name} has {row(mk, loaded)}")
    assert outcome.split()[1] == "EINVAL"
    assert row(mk, loaded)


@claim(
    "the flags of ordinary loads keep their meaning",
    source="known bug V2-01: 0x10 and 0x20 are taken for an instance's",
)
@pytest.mark.needs("kexec", "kimage")
@pytest.mark.parametrize("flag", [0x8, 0x10, 0x20], ids=["debug", "no-cma", "force-dtb"])
def test_upstream_flags(mk: Interface, seen: Seen, flag: int) -> None:
    outcome = mk.call(f"kexec_file_load fd:/boot/bzImage -1 1 s: {0x4 | flag:#x}", limit=20)
    types = [image.type for image in mk.images()]
    seen(f"flag {flag:#x}: {outcome.error or 'accepted'}, {types}")
    # A base that is older than the flag refuses it, and that is as good.
    assert (outcome.ok and types == ["default"]) or outcome.error == "EINVAL"


@claim(
    "the command line arrives in the instance's memory byte by byte",
    source="RFC v2 15/16: kexec_file_load() takes the command line",
)
def test_command_line(lab: Lab, mk: Interface, ready: SpawnedKernel, seen: Seen) -> None:
    words = 'quote="a b" back\\slash tab\there percent%41 ünïcode'
    mk.load(ready.id, arguments=words).require()
    region: Region = mk.region(ready.name)
    found = list(find(ram_of(lab.machine), words.encode() + b"\0", [region]))
    seen(f"{len(words)} characters at {', '.join(map(hex, found))}")
    assert found, f"the command line is not in {region}"


@claim(
    "an image that is loaded brings the device tree of its instance, whole, and not of an earlier one"
    " (seen from outside)",
    source="RFC v2 16/16: a spawned kernel restores its instance from the device tree that is handed over",
)
@pytest.mark.needs("own-tree", "remove", "unload")
def test_device_tree_in_memory(lab: Lab, mk: Interface, alpha: SpawnedKernel, seen: Seen) -> None:
    trees, ram = [], ram_of(lab.machine)
    for kernel in (alpha, SpawnedKernel("charlie", alpha.id + 6, alpha.cpus, alpha.memory)):
        mk.create(kernel).require()
        mk.load(kernel.id, image=PAYLOAD).require()
        record = lab.host.channel.get(f"{MOUNT}/instances/{kernel.name}/device_tree")
        trees.append((kernel.name, len(list(find(ram, record, [mk.region(kernel.name)])))))
        mk.unload(kernel.id).require()
        mk.remove(kernel.name).require()
    seen(", ".join(f"{name}'s: {count} time" for name, count in trees))
    assert [count for _, count in trees] == [1, 1], "the device tree differs from what its host has of it"
