# SPDX-License-Identifier: MIT
"""The /proc file that lists loaded images."""

import pytest

from harness.definition import SpawnedKernel
from harness.lab import Lab, Pair
from harness.multikernel import calls, segments
from harness.multikernel.interface import Interface
from harness.multikernel.kimage import EMPTY, parse_kimage
from harness.plugin import Seen, claim

pytestmark = pytest.mark.needs("kimage")


@claim("without an image the list says so", source="RFC v1 7/7 and v2 10/16")
def test_empty(lab: Lab, seen: Seen) -> None:
    text = lab.host.read(lab.dialect.kimage)
    seen(repr(text.splitlines()[-1]))
    assert text.splitlines()[-1].strip() == EMPTY


@claim(
    "an ordinary kexec image is listed, and the list says that there are none only while there is none",
    source="RFC v1 7/7 and v2 10/16",
)
@pytest.mark.needs("kexec")
def test_ordinary_image(lab: Lab, seen: Seen) -> None:
    told = []
    for line in ("kexec_file_load fd:/boot/bzImage -1 1 s: 0x4", "kexec_file_load -1 -1 0 null 0x1"):
        calls.call(lab.host, line, limit=20).require()
        text = lab.host.read(lab.dialect.kimage)
        told.append(([image.type for image in parse_kimage(text)], EMPTY in text))
        seen(f"{told[-1][0] or 'no image'}, {'says' if told[-1][1] else 'does not say'} that there is none")
    assert told == [(["default"], False), ([], True)], f"rows, and whether it says {EMPTY!r}: {told}"


@claim("each row's cells stand under their headings", source="known bug V1-20: the row is shifted by one")
@pytest.mark.needs("spawn")
def test_columns(pair: Pair, seen: Seen) -> None:
    header, *rows = [
        line for line in pair.host.read(pair.lab.dialect.kimage).splitlines() if set(line) - set("- ")
    ]
    seen(f"{header!r} over {rows[0]!r}")
    place = header.index("Start Address")
    for row in rows:
        address = row.index(" 0x") + 1
        assert address == place, (
            f"the address begins in column {address}, its heading in {place}:\n{header}\n{row}"
        )


@claim(
    "the list is the same whatever pieces it is read in", source="interface sheet PS-P1: small reads, lseek"
)
def test_small_reads(lab: Lab, seen: Seen) -> None:
    file = lab.dialect.kimage
    whole = lab.host.run(f"cat {file} | md5sum")
    for size in (1, 7, 64):
        pieces = lab.host.run(f"dd if={file} bs={size} 2>/dev/null | md5sum")
        assert pieces == whole, f"read by {size} bytes it is another text"
    again = lab.host.run(f"dd if={file} bs=1 skip=5 count=20 2>/dev/null | md5sum")
    part = lab.host.run(f"cat {file} | dd bs=1 skip=5 count=20 2>/dev/null | md5sum")
    assert again == part, "at an offset it is another text"
    seen("read by 1, 7 and 64 bytes, and at an offset")


@claim("nobody but root is shown an address", source="known bug V1-20: the start address is world-readable")
@pytest.mark.needs("spawn")
def test_addresses_are_secret(pair: Pair, seen: Seen) -> None:
    line = f"uid:1000 read fd:{pair.lab.dialect.kimage} out:4000 4000"
    outcome = calls.call(pair.host, line)
    text = outcome.out.decode()
    shown = [word for word in text.split() if word.startswith("0x") and int(word, 16)]
    seen(f"another user sees {shown or outcome.error or 'no address'}")
    assert not shown, text


@claim("the list cannot be written, mapped or removed", source="RFC v1 7/7 and v2 10/16: mode 0444")
def test_read_only(lab: Lab, seen: Seen) -> None:
    file = lab.dialect.kimage
    # Cutting is left out: every file of /proc takes it for nothing.
    lines = [
        f"write fdw:{file} hex:00 1",
        f"mmap 0 4096 3 1 fd:{file} 0",
        f"unlink s:{file}",
    ]
    outcomes = calls.calls(lab.host, lines)
    mode = lab.host.run(f"stat -c %a {file}")
    seen(f"mode {mode}; " + ", ".join(outcome.error or "accepted" for outcome in outcomes))
    assert mode == "444"
    assert all(outcome.error for outcome in outcomes), "\n".join(map(str, outcomes))


@claim(
    "what kexec_load(2) takes as a spawned kernel's image is listed as one, and can be unloaded",
    source="RFC v1 1/7, 7/7 and v2 07/16, 11/16",
)
@pytest.mark.trespass("segments go where the test says, and no instance has that memory")
def test_by_segments(lab: Lab, seen: Seen) -> None:
    start = lab.topology.pool.start
    loaded = segments.load(lab.host, f"64@{start:#x}+4096", start)
    if not loaded.ok:
        seen(f"kexec_load(2) takes none: {loaded.error}")
        return
    listed = [[image.type for image in parse_kimage(lab.host.read(lab.dialect.kimage))]]
    calls.call(lab.host, segments.UNLOAD).require()
    listed += [[image.type for image in parse_kimage(lab.host.read(lab.dialect.kimage))]]
    seen(f"{listed[0]}, after its unloading {listed[1]}")
    assert listed == [["multikernel"], []]


@claim("an instance's row has its id", source="RFC v2 10/16: column MK_ID")
@pytest.mark.needs("instances", "several")
def test_ids(mk: Interface, loaded: SpawnedKernel, bravo: SpawnedKernel, seen: Seen) -> None:
    mk.create(bravo).require()
    mk.load(bravo.id).require()
    ids = sorted(image.id for image in mk.images() if image.id is not None)
    seen(f"ids {ids}")
    assert ids == [loaded.id, bravo.id]
