# SPDX-License-Identifier: MIT
"""Device trees that are wrong, damaged or hostile: refused as a whole, and nothing is made of them."""

import random
import struct
from collections.abc import Iterator

import fdt
import pytest

from harness.definition import SpawnedKernel
from harness.lab import Lab
from harness.multikernel import calls, census
from harness.multikernel.devicetree import COMPATIBLE, instances_blob
from harness.multikernel.interface import MOUNT, Interface
from harness.plugin import Seen, claim

pytestmark = pytest.mark.needs("instances")

HEADER = struct.Struct(">10I")
"""magic, totalsize, off_dt_struct, off_dt_strings, off_mem_rsvmap, version, last_comp_version,
boot_cpuid_phys, size_dt_strings, size_dt_struct. Source: Devicetree Specification 5.2."""
FIELDS = [
    "magic",
    "totalsize",
    "struct",
    "strings",
    "rsvmap",
    "version",
    "last_comp",
    "cpu",
    "strings_size",
    "struct_size",
]


@pytest.fixture
def untouched(lab: Lab, mk: Interface) -> Iterator[None]:
    """Whatever the test writes, nothing comes of it, and its names and ids are free for good trees."""
    before = census.take(lab.host)
    yield
    lost = census.take(lab.host).lost_since(before)
    assert not lost, "\n".join(["the refused device trees left something behind:", *lost])
    last = lab.topology.vcpus - 1
    good = (SpawnedKernel("alpha", 1, (last,), 64 << 20), SpawnedKernel("bravo", 2, (last - 1,), 64 << 20))
    outcome = mk.create(*good)
    assert outcome.ok, f"after refused device trees a good one fails: {outcome}"


def refused(mk: Interface, blobs: dict[str, bytes], seen: Seen) -> None:
    """Require that each blob is refused by the write itself."""
    wrong = []
    for what, blob in blobs.items():
        outcome = mk.write_tree(blob)
        seen(f"{what}: {outcome.error or 'taken'}")
        if outcome.error in {"", "hung", "killed"}:
            wrong.append(f"{what}: {outcome.error or 'taken'}; instances: {mk.names()}")
            for name in mk.names():
                mk.remove(name)
    assert not wrong, "\n".join(wrong)


def tree(instances: dict[str, dict[str, object]], compatible: str | None = COMPATIBLE) -> bytes:
    """Build a blob; a value is one cell, a list of cells, or bytes."""
    made = fdt.FDT()
    made.header.version, made.header.last_comp_version = 17, 16
    if compatible is not None:
        made.root.append(fdt.PropBytes("compatible", data=compatible.encode() + b"\0"))
    made.add_item(fdt.Node("instances"))
    for name, properties in instances.items():
        node, resources = fdt.Node(name), fdt.Node("resources")
        for key, value in properties.items():
            where = node if key == "id" else resources
            if isinstance(value, bytes):
                where.append(fdt.PropBytes(key, data=value))
            elif isinstance(value, list):
                where.append(fdt.PropWords(key, *value))
            else:
                where.append(fdt.PropWords(key, value))
        node.append(resources)
        made.add_item(node, "/instances")
    return bytes(made.to_dtb())


def good(lab: Lab, **changed: object) -> dict[str, object]:
    """Return the properties of a good instance, some of them changed; None takes one away."""
    properties = {"id": 1, "cpus": lab.topology.vcpus - 1, "memory-bytes": 64 << 20, **changed}
    return {key: value for key, value in properties.items() if value is not None}


def patched(blob: bytes, **fields: int) -> bytes:
    """Return a blob with other numbers in its header."""
    header = list(HEADER.unpack_from(blob))
    for name, value in fields.items():
        header[FIELDS.index(name)] = value
    return HEADER.pack(*header) + blob[HEADER.size :]


@claim("a device tree that is cut short is refused", source="known bug V2-12: totalsize is not compared")
@pytest.mark.usefixtures("untouched")
def test_cut_short(lab: Lab, mk: Interface, seen: Seen) -> None:
    blob = tree({"alpha": good(lab)})
    sizes = [0, 1, 3, 4, 7, 8, 27, 39, 40, 47, 48, 100, len(blob) // 2, len(blob) - 4, len(blob) - 1]
    blobs = {f"{size} of {len(blob)} bytes": blob[:size] for size in sizes if size}
    refused(mk, blobs, seen)


@claim("a header that lies is refused", source="Devicetree Specification 5.2; known bug V2-12")
@pytest.mark.usefixtures("untouched")
def test_lying_header(lab: Lab, mk: Interface, seen: Seen) -> None:
    blob = tree({"alpha": good(lab)})
    size = len(blob)
    lies = {
        "another magic number": {"magic": 0xD00DFEEE},
        "the magic number backwards": {"magic": 0xEDFE0DD0},
        "totalsize 0": {"totalsize": 0},
        "totalsize a byte less": {"totalsize": size - 1},
        "totalsize a byte more": {"totalsize": size + 1},
        "totalsize of a page more": {"totalsize": size + 4096},
        "totalsize 2 GiB": {"totalsize": 0x7FFFFFFF},
        "totalsize 4 GiB": {"totalsize": 0xFFFFFFFF},
        "nodes behind the end": {"struct": size},
        "nodes far away": {"struct": 0x7FFFFFFC},
        "nodes before the beginning": {"struct": 0xFFFFFFF0},
        "nodes at an odd place": {"struct": 57},
        "names behind the end": {"strings": size + 1},
        "names far away": {"strings": 0x7FFFFFFF},
        "more nodes than bytes": {"struct_size": size * 2},
        "4 GiB of nodes": {"struct_size": 0xFFFFFFFF},
        "no nodes": {"struct_size": 0},
        "4 GiB of names": {"strings_size": 0xFFFFFFFF},
        "no names": {"strings_size": 0},
        "version 0": {"version": 0},
        "a version of the future": {"version": 99, "last_comp": 99},
    }
    refused(mk, {what: patched(blob, **fields) for what, fields in lies.items()}, seen)


@claim(
    "a property whose name is not among the names is refused, and the next device tree is taken",
    source="Devicetree Specification 5.4.2: the name is an offset into the block of strings",
)
@pytest.mark.usefixtures("untouched")
@pytest.mark.parametrize("offset", [0x7FFFFFFF, 0xFFFFFFFF])
def test_property_without_name(lab: Lab, mk: Interface, seen: Seen, offset: int) -> None:
    blob = tree({"alpha": good(lab)})
    # A property is a token, a length, the place of its name, its value; this is the last one.
    words = {struct.unpack_from(">II", blob, place): place for place in range(0, len(blob) - 8, 4)}
    place = words[3, 4] + 8
    refused(mk, {f"name at {offset:#x}": blob[:place] + struct.pack(">I", offset) + blob[place + 4 :]}, seen)


@claim("nodes that are not nested as they should be are refused", source="Devicetree Specification 5.4")
@pytest.mark.usefixtures("untouched")
def test_broken_nesting(lab: Lab, mk: Interface, seen: Seen) -> None:
    blob = tree({"alpha": good(lab)})
    begin, end, prop, nop, finish = (struct.pack(">I", token) for token in (1, 2, 3, 4, 9))
    start = HEADER.unpack_from(blob)[2]
    last_end = blob.rindex(end + finish)
    blobs = {
        "no end of the tree": blob[:last_end] + nop * 2 + blob[last_end + 8 :],
        "a node that is not closed": blob[:last_end] + nop + finish + blob[last_end + 8 :],
        "a token that there is not": blob[:start] + struct.pack(">I", 77) + blob[start + 4 :],
        "a property before any node": blob[:start] + prop + blob[start + 4 :],
        "closed before it began": blob[:start] + end + blob[start + 4 :],
        "only closed nodes": blob[:start]
        + end * ((last_end - start) // 4)
        + blob[start + (last_end - start) // 4 * 4 :],
    }
    assert begin in blob
    refused(mk, blobs, seen)


@claim(
    "a device tree without the documented root is refused",
    source="known bug V2-12: compatible is not checked",
)
@pytest.mark.usefixtures("untouched")
def test_root(lab: Lab, mk: Interface, seen: Seen) -> None:
    names = ["", "multikernel", "multikernel-v2", "multikernel-v11", "MULTIKERNEL-V1", "x" * 300]
    blobs = {f"compatible {name[:20]!r}": tree({"alpha": good(lab)}, name) for name in names}
    blobs["no compatible"] = tree({"alpha": good(lab)}, None)
    blobs["no instance"] = tree({})
    refused(mk, blobs, seen)


@claim(
    "an instance's id is a number from 1 to 2047 of its own", source="RFC v2 15/16: 11 bits; known bug V2-12"
)
@pytest.mark.usefixtures("untouched")
def test_ids(lab: Lab, mk: Interface, seen: Seen) -> None:
    ids: dict[str, object] = {
        "missing": None, "0": 0, "2048": 2048, "0x10001": 0x10001, "2^31": 1 << 31, "-1": 0xFFFFFFFF,
        "no bytes": b"", "one byte": b"\1", "three bytes": b"\0\0\1", "five bytes": b"\0\0\0\1\0",
        "two cells": [1, 1], "text": b"1\0",
    }  # fmt: skip
    blobs = {f"id {what}": tree({"alpha": good(lab, id=value)}) for what, value in ids.items()}
    refused(mk, blobs, seen)


@claim(
    "an instance's memory is a number of pages that the pool has",
    source="RFC v2 04/16; interface sheet ME-N2",
)
@pytest.mark.usefixtures("untouched")
def test_memory(lab: Lab, mk: Interface, seen: Seen) -> None:
    pool = lab.topology.pool.size
    sizes: dict[str, object] = {
        "missing": None, "0": 0, "1": 1, "4095": 4095, "4097": 4097, "64 MiB and a byte": (64 << 20) + 1,
        "the pool and a page": pool + 4096, "4 GiB less a page": 0xFFFFF000, "2^63": [0x80000000, 0],
        # More than there is, and good numbers were they cut to 32 bits.
        "4 GiB and 64 MiB": [1, 64 << 20], "2^63 and 64 MiB": [0x80000000, 64 << 20],
        "2^64 less a page": [0xFFFFFFFF, 0xFFFFF000], "2^64 less 1": [0xFFFFFFFF, 0xFFFFFFFF],
        "no bytes": b"", "one byte": b"\x40", "three cells": [0, 0, 64 << 20],
    }  # fmt: skip
    blobs = {f"memory {what}": tree({"alpha": good(lab, **{"memory-bytes": v})}) for what, v in sizes.items()}
    refused(mk, blobs, seen)


@claim(
    "an instance's CPUs are CPUs that the host has and can give", source="RFC v2 04/16; interface sheet BI-1"
)
@pytest.mark.usefixtures("untouched")
def test_cpus(lab: Lab, mk: Interface, seen: Seen) -> None:
    last = lab.topology.vcpus - 1
    lists: dict[str, object] = {
        "missing": None, "no bytes": b"", "one byte": b"\3", "five bytes": b"\0\0\0\3\0",
        "the host's boot CPU": 0, "the boot CPU among others": [last, 0], "one that is not there": last + 1,
        "4096": 4096, "2^31": 1 << 31, "-1": 0xFFFFFFFF, "one twice": [last, last],
        "a thousand": [last] * 1000, "all of them": list(range(last + 1)),
    }  # fmt: skip
    blobs = {f"cpus {what}": tree({"alpha": good(lab, cpus=value)}) for what, value in lists.items()}
    refused(mk, blobs, seen)


@claim("a CPU that is offline is not given away", source="interface sheet SP-N2")
def test_offline_cpu(lab: Lab, mk: Interface, alpha: SpawnedKernel, seen: Seen) -> None:
    lab.host.run(f"echo 0 >/sys/devices/system/cpu/cpu{alpha.cpus[0]}/online")
    outcome = mk.create(alpha)
    seen(outcome.error or "taken")
    assert not outcome.ok, "an instance has a CPU that somebody put offline for another purpose"
    assert mk.names() == []


@claim(
    "where one CPU does not go offline, no instance is made, and the CPUs that did are online again",
    source="kernels/reference/README.md: CPUs are taken from the host; all of a tree is taken or none",
)
@pytest.mark.usefixtures("untouched")
def test_cpu_that_stays(lab: Lab, mk: Interface, seen: Seen) -> None:
    last = lab.topology.vcpus - 1
    online = "cat /sys/devices/system/cpu/online"
    before = lab.host.run(online)
    # The host's hotplug machinery fails on request, at a step that it takes for each CPU.
    fail = f"/sys/devices/system/cpu/cpu{last}/hotplug/fail"
    lab.host.run(
        "step=$(grep workqueue:online /sys/devices/system/cpu/hotplug/states | cut -d: -f1);"
        f" echo $step >{fail}"
    )
    with lab.host.console.expected("does not go offline", required=False):
        outcome = mk.write_tree(tree({"alpha": good(lab, cpus=[last - 1, last])}))
    names, after = mk.names(), lab.host.run(online)
    lab.host.run(f"echo -1 >{fail}")
    seen(f"{outcome.error or 'taken'}; CPUs {after} online")
    assert not outcome.ok, f"{names} was made of a CPU that stays with the host: {after} are online"
    assert (names, after) == ([], before)


@claim("an instance's name is a plain file name", source="interface sheet BI-1")
@pytest.mark.usefixtures("untouched")
def test_names(lab: Lab, mk: Interface, seen: Seen) -> None:
    names = ["x" * 300, "x" * 64, ".", "..", "-", ".hidden", "a b", "a\tb", "a\nb", "ä", "a*", "a'b", "%s%n"]
    blobs = {}
    for name in names:
        raw = name.encode()
        # The library would not write such names: they replace one of the same length.
        blobs[f"name {name[:20]!r} of {len(name)}"] = tree({"N" * len(raw): good(lab)}).replace(
            b"N" * len(raw), raw
        )
    refused(mk, blobs, seen)


TAKEN = ("same name", "same id", "same name and id", "same CPU")


@claim(
    "an instance whose name, id or CPU is another's is refused, and nothing comes of it",
    source="RFC v2 10/16: ids are unique, CPUs available; known bug V2-12: duplicates are accepted",
)
@pytest.mark.needs("remove")
@pytest.mark.parametrize("what", TAKEN)
def test_taken(
    lab: Lab, mk: Interface, ready: SpawnedKernel, bravo: SpawnedKernel, seen: Seen, what: str
) -> None:
    cpu = bravo.cpus[0]
    blob = {
        "same name": tree({ready.name: good(lab, id=2, cpus=cpu)}),
        "same id": tree({"other": good(lab, id=ready.id, cpus=cpu)}),
        "same name and id": instances_blob([ready]),
        "same CPU": tree({"other": good(lab, id=2, cpus=ready.cpus[0])}),
    }[what]
    before = census.take(lab.host)
    outcome = mk.write_tree(blob)
    lost = census.take(lab.host).lost_since(before)
    seen(f"{what}: {outcome.error or 'taken'}; instances: {mk.names()}")
    assert not outcome.ok, "\n".join([f"{what} was taken", *lost])
    assert not lost, "\n".join(lost)


@claim(
    "of a device tree with one bad instance none is made",
    source="reference series: all of it is taken or none",
)
@pytest.mark.usefixtures("untouched")
def test_all_or_none(lab: Lab, mk: Interface, seen: Seen) -> None:
    last = lab.topology.vcpus - 1
    first, second = good(lab), good(lab, id=2, cpus=last - 1)
    blobs = {
        "same ids": tree({"alpha": first, "bravo": {**second, "id": 1}}),
        "same CPUs": tree({"alpha": first, "bravo": {**second, "cpus": last}}),
        "more memory than there is": tree(
            {"alpha": first, "bravo": {**second, "memory-bytes": lab.topology.pool.size}}
        ),
        "the second without CPUs": tree({"alpha": first, "bravo": {**second, "cpus": b""}}),
        "the first with CPU 0": tree({"alpha": {**first, "cpus": 0}, "bravo": second}),
    }
    refused(mk, blobs, seen)


@claim("a device tree must come in one write", source="RFC v2 08/16: processed for each write(2)")
@pytest.mark.usefixtures("untouched")
def test_split_writes(lab: Lab, mk: Interface, seen: Seen) -> None:
    lab.host.channel.put("/run/tree.dtb", tree({"alpha": good(lab)}))
    half = lab.host.run(
        "wc -c </run/tree.dtb; head -c 100 /run/tree.dtb >/run/a; tail -c +101 /run/tree.dtb >/run/b"
    )
    file = f"fdw:{MOUNT}/device_tree"
    lines = [
        f"write {file} file:/run/a size:/run/a",
        f"write {file} file:/run/b size:/run/b",
        f"pwrite {file} file:/run/tree.dtb size:/run/tree.dtb 1",
        f"pwrite {file} file:/run/tree.dtb size:/run/tree.dtb 4096",
        f"write {file} file:/run/tree.dtb 0",
        f"write {file} null size:/run/tree.dtb",
        f"write {file} unmapped size:/run/tree.dtb",
        f"write {file} kernel size:/run/tree.dtb",
        f"write {file} file:/run/a size:/run/tree.dtb",
    ]
    outcomes = calls.calls(lab.host, lines)
    seen(f"{half} bytes; " + ", ".join(outcome.error or str(outcome.result) for outcome in outcomes))
    assert mk.names() == []
    taken = [str(outcome) for outcome in outcomes if outcome.ok and outcome.result > 0]
    assert not taken, "\n".join(taken)


@claim("a device tree of more than the file takes is refused", source="interface sheet BI-2: more than 1 MB")
@pytest.mark.usefixtures("untouched")
@pytest.mark.parametrize("size", [4097, 65537, (1 << 20) + 1])
def test_too_long(lab: Lab, mk: Interface, seen: Seen, size: int) -> None:
    blob = tree({"alpha": good(lab)})
    padded = patched(blob + bytes(size - len(blob)), totalsize=size)
    lab.host.channel.put("/run/tree.dtb", blob)
    lab.host.run(
        f"head -c {size} /dev/zero >/run/long; dd if=/run/tree.dtb of=/run/long conv=notrunc 2>/dev/null"
    )
    lab.host.channel.put("/run/head", padded[: HEADER.size])
    lab.host.run("dd if=/run/head of=/run/long conv=notrunc 2>/dev/null")
    outcome = mk.call(mk.write_tree_call("/run/long"))
    seen(f"{size} bytes: {outcome.error or f'{outcome.result} taken'}; instances: {mk.names()}")
    if outcome.ok and outcome.result == size:
        # It takes so much: then it must have understood it.
        assert mk.names() == ["alpha"]
        mk.remove("alpha").require()
        return
    assert not outcome.ok
    assert mk.names() == []


@claim(
    "a device tree with ten thousand nodes or a thousand levels does no harm", source="interface sheet BI-1"
)
@pytest.mark.usefixtures("untouched")
def test_large_trees(lab: Lab, mk: Interface, seen: Seen) -> None:
    begin, end, finish = (struct.pack(">I", token) for token in (1, 2, 9))

    def blob(nodes: bytes) -> bytes:
        body = begin + b"\0\0\0\0" + nodes + end + finish
        offset = HEADER.size + 16
        header = HEADER.pack(
            0xD00DFEED, offset + len(body), offset, offset + len(body), HEADER.size, 17, 16, 0, 0, len(body)
        )
        return header + bytes(16) + body

    node = begin + b"n\0\0\0"
    blobs = {
        "2000 nodes": blob((node + end) * 2000),
        "1000 levels": blob(node * 1000 + end * 1000),
        "1000 levels that are not closed": blob(node * 1000),
    }
    refused(mk, blobs, seen)


@claim("a device tree with flipped bits never harms the host", source="interface sheet BI-7: random input")
@pytest.mark.needs("remove")
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_flipped_bits(lab: Lab, mk: Interface, seen: Seen, seed: int) -> None:
    chance = random.Random(seed)
    before = census.take(lab.host)
    blob = tree({"alpha": good(lab)})
    rounds, lines = 60, []
    for _ in range(rounds):
        damaged = bytearray(blob)
        for _ in range(chance.randint(1, 4)):
            damaged[chance.randrange(len(damaged))] ^= 1 << chance.randrange(8)
        lines.append(f"write fdw:{MOUNT}/device_tree hex:{damaged.hex()} {len(damaged)}")
        lines.append(mk.remove_call("alpha"))
    outcomes = calls.calls(lab.host, lines)
    bad = [str(outcome) for outcome in outcomes if outcome.error in {"hung", "killed"}]
    assert not bad, "\n".join(bad)
    for name in mk.names():
        mk.remove(name).require()
    taken = sum(outcome.ok for outcome in outcomes[::2])
    seen(f"seed {seed}: {taken} of {rounds} damaged trees were still good")
    assert taken < rounds, "no damage was noticed"
    lost = census.take(lab.host).lost_since(before)
    assert not lost, "\n".join(lost)
