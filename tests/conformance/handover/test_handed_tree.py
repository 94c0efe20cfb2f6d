# SPDX-License-Identifier: MIT
"""What is handed over, as memory holds it between the kernels, compared with what both say of it."""

import fdt
import pytest

from harness.kexec import await_successor, between_kernels, kexec, load
from harness.lab import Lab
from harness.model import Region, common, merged, without
from harness.multikernel.handover import (
    KHO,
    LUO,
    METADATA,
    LiveUpdate,
    Tree,
    opened,
    parse_tree,
    scratch,
)
from harness.multikernel.interface import Interface
from harness.multikernel.kernel import Kernel
from harness.multikernel.payload import Payload
from harness.oracle import preserved
from harness.plugin import Seen, claim
from harness.scene import wait_for_state
from harness.vm.ram import Ram
from harness.vm.ram_pages import PAGE

ADMIN = "Documentation/admin-guide/mm/kho.rst"
CONCEPTS = "Documentation/core-api/kho/index.rst"
ABI = "Documentation/core-api/kho/abi.rst"
SIZE = 300 * PAGE + 1
TOKEN = 0x7EE
SYS_FALLOCATE = 285

pytestmark = pytest.mark.needs("kho", "luo")


def blob_names(kernel: Kernel, way: str) -> set[str]:
    return set(kernel.run(f"ls {KHO}/{way}/sub_fdts").split())


def tree_in(ram: Ram, announced: bytes) -> Tree:
    """Return the tree that the predecessor leaves; ``announced`` is what it shows of it in debugfs."""
    return parse_tree(ram.read(preserved.find_tree(ram, announced[:8]), PAGE))


@pytest.fixture
def announced(lab: Lab, luo: LiveUpdate) -> bytes:
    """A session with one file, to be handed over; a successor is loaded. What debugfs shows of the tree."""
    luo.create("session").require()
    luo.memfd("data", SIZE).require()
    luo.preserve("session", "data", TOKEN).require()
    load(lab)
    return lab.host.channel.get(f"{KHO}/out/fdt")


@claim("debugfs shows the whole of the tree that will be handed over", source=ADMIN)
def test_announced_whole(lab: Lab, seen: Seen) -> None:
    shown = lab.host.channel.get(f"{KHO}/out/fdt")
    size = int.from_bytes(shown[4:8], "big")
    seen(f"{len(shown)} of {size} bytes")
    assert set(parse_tree(shown).blobs) == blob_names(lab.host, "out")


@claim(
    "the tree that would be handed over names the spawned kernels that run, at any time, and no others",
    source="kernels/reference/README.md: by KHO a device tree of the instances that run is handed over",
)
@pytest.mark.needs("spawn", "takeover", "force", "unload")
def test_announces_who_runs(waiting: Payload, mk: Interface, lab: Lab, seen: Seen) -> None:
    payload, told = waiting, []
    name, number = payload.instance.name, payload.instance.id

    def announced() -> list[str]:
        tree = fdt.parse_dtb(lab.host.channel.get(f"{KHO}/out/sub_fdts/multikernel"))
        return [node.name for node in tree.get_node("/instances").nodes]

    for how, state in {"force": "ready", "stop": "ready", "crash": "failed"}.items():
        mk.unload(number)
        payload.load()
        told.append(("loaded", [], announced()))
        payload.start()
        told.append(("active", [name], announced()))
        if how == "force":
            mk.force(number).require()
        else:
            payload.last_command(how)
        assert wait_for_state(mk, name, state, lab.host.factor) == state, f"after {how}"
        told.append((f"{state} after {how}", [], announced()))
    seen("; ".join(f"{when}: {', '.join(names) or 'nobody'}" for when, _, names in told))
    wrong = [f"{when}: {names}, not {wanted}" for when, wanted, names in told if names != wanted]
    assert not wrong, f"the tree for the successor names wrong instances: {'; '.join(wrong)}"


@claim(
    "a kernel that was handed something shows what it will hand over itself, as its predecessor did",
    source=ADMIN,
)
def test_successor_announces(lab: Lab, seen: Seen) -> None:
    before = lab.host.run(f"ls {KHO}/out")
    kexec(lab)
    after = lab.host.run(f"ls {KHO}/out")
    seen(f"{', '.join(before.split())}; in the successor {', '.join(after.split())}")
    assert after == before


@claim(
    "the successor is given the very tree that its predecessor left, with the blobs announced", source=ADMIN
)
def test_tree_is_the_same(lab: Lab, announced: bytes, seen: Seen) -> None:
    host = lab.host
    names = blob_names(host, "out")
    metadata = host.channel.get(f"{KHO}/out/sub_fdts/{METADATA}")
    with between_kernels(lab) as ram:
        left = tree_in(ram, announced)
        blobs = {name: ram.read(blob.start, blob.size) for name, blob in left.blobs.items()}
    await_successor(lab)
    given = host.channel.get(f"{KHO}/in/fdt")
    seen(f"{left.compatible}: {', '.join(sorted(left.blobs))}; {len(given)} bytes")
    assert parse_tree(given) == left
    assert len(given) == int.from_bytes(given[4:8], "big"), "there is something behind the tree"
    assert names == set(left.blobs) == blob_names(host, "in")
    assert blobs[METADATA] == metadata
    shown = {name: host.channel.get(f"{KHO}/in/sub_fdts/{name}") for name in names - {LUO}}
    # LUO's own is given back to the successor's page allocator as soon as it was read.
    assert shown == {name: blobs[name] for name in shown}


@claim(
    "the map of preserved memory names the tree, its blobs and every page of a file, each once", source=ABI
)
def test_map_is_complete(lab: Lab, announced: bytes, luo: LiveUpdate, seen: Seen) -> None:
    pages = luo.pages("data", SIZE)
    ram_areas = lab.host.system_ram()
    with between_kernels(lab) as ram:
        at = preserved.find_tree(ram, announced[:8])
        tree = parse_tree(ram.read(at, PAGE))
        folios = preserved.folios(ram, tree.memory_map)
        (session,) = preserved.sessions(ram, tree.blobs[LUO])
    lab.machine.end()
    (file,) = session.files
    assert (session.name, file.token, file.size) == ("session", TOKEN, SIZE)
    assert file.pages.tolist() == pages.tolist(), "the file's pages are others than the page map says"
    needed = [Region(at, PAGE), *tree.blobs.values(), *(Region(page * PAGE, PAGE) for page in pages.tolist())]
    needed += [Region(file.at, 64), Region(session.at, 80)]
    seen(f"{len(folios)} folios, {sum(folio.size for folio in folios) >> 10} KiB")
    assert without(needed, folios) == (), "something is handed over that the map does not name"
    assert sum(folio.size for folio in merged(folios)) == sum(folio.size for folio in folios), (
        "one is there twice"
    )
    assert without(folios, ram_areas) == (), "something in the map is not RAM"


@claim("no page is handed over in the memory that the successor starts in", source=CONCEPTS)
def test_not_in_scratch(lab: Lab, luo: LiveUpdate, seen: Seen) -> None:
    areas = scratch(lab.host)
    shown = lab.host.channel.get(f"{KHO}/out/fdt")
    size = 32 << 20
    luo.create("moved").require()
    luo.memfd("data").require()
    # Of movable pages the kernel takes those of the scratch areas, once they are most of what is free.
    free = int(lab.host.run("awk '/MemFree/ { print $2 }' /proc/meminfo"))
    ballast = (free >> 10) - (3 * sum(area.size for area in areas) >> 21)
    lab.host.run(f"mount -o remount,size=100% /run && fallocate -l {ballast}M /run/ballast", timeout=60)
    luo.holder.call(f"{SYS_FALLOCATE} {luo.number('data')} 0 0 {size}", limit=60).require()
    before = [Region(page * PAGE, PAGE) for page in luo.pages("data", size).tolist()]
    moved = sum(area.size for area in common(before, areas)) >> 20
    luo.preserve("moved", "data", TOKEN).require()
    load(lab)
    with between_kernels(lab) as ram:
        tree = tree_in(ram, shown)
        folios = preserved.folios(ram, tree.memory_map)
    lab.machine.end()
    seen(
        f"{len(folios)} folios, {sum(folio.size for folio in folios) >> 20} MiB; {moved} MiB had to be moved"
    )
    assert moved, "nothing lay in the scratch areas before: this proves nothing"
    assert common(folios, areas) == ()


@claim("each handover is counted, from one to the next", source="Documentation/core-api/liveupdate.rst")
def test_counted(lab: Lab, luo: LiveUpdate, announced: bytes, seen: Seen) -> None:
    with between_kernels(lab) as ram:
        blob = tree_in(ram, announced).blobs[LUO]
        first = preserved.liveupdate_number(ram, blob)
    await_successor(lab)
    said = lab.host.run("dmesg | grep 'liveupdate number'")
    seen(f"number {first}: {said.partition('] ')[2]}")
    assert said.endswith(f"liveupdate number: {first}")
    assert first == 1
    opened(lab.host).retrieve("session").require()
