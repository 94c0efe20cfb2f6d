# SPDX-License-Identifier: MIT
"""Memory handed over by memfds: the very pages, to the byte, looked at from outside and read inside.

Its content is random, written by the predecessor. From outside the harness compares the physical pages
that the predecessor's page map names, before the successor could have touched them by mistake and after.
"""

import hashlib
import time

import numpy as np
import pytest

from harness.kexec import kexec, pack_for_more
from harness.lab import Lab
from harness.multikernel.handover import LiveUpdate, incoming, opened, scratch
from harness.multikernel.kernel import Kernel
from harness.plugin import Seen, claim
from harness.vm.ram import ram_of
from harness.vm.ram_pages import PAGE, Pages

MEMFD = "Documentation/mm/memfd_preservation.rst"
LUO = "Documentation/core-api/liveupdate.rst"
KHO = "Documentation/core-api/kho"
TOKEN = 0x5EED
PIECE = 256
"""Pages that are looked at together."""
ROOM = 96 << 10
"""KiB that are left to a kernel whose memory is nearly full."""

pytestmark = pytest.mark.needs("kho", "luo")


def handed(luo: LiveUpdate, session: str, name: str, size: int, token: int = TOKEN) -> Pages:
    """Hand a memfd with random content over, in a session that is there; return its pages."""
    luo.memfd(name, size).require()
    luo.fill(name, size)
    luo.preserve(session, name, token).require()
    return luo.pages(name, size)


def hashed(lab: Lab, pages: Pages, size: int | None = None) -> str:
    """Return the SHA-256 of physical pages, or of their first ``size`` bytes, seen from outside."""
    ram, result, left = ram_of(lab.machine), hashlib.sha256(), len(pages) * PAGE if size is None else size
    for first in range(0, len(pages), PIECE):
        data = ram.rows(pages[first : first + PIECE]).tobytes()[:left]
        result.update(data)
        left -= len(data)
    return result.hexdigest()


@claim("a file's pages are the same pages in the successor, to the byte", source=MEMFD)
def test_exact(lab: Lab, luo: LiveUpdate, seen: Seen) -> None:
    sizes = {"small": 1, "odd": 5 * PAGE + 17, "large": 32 << 20}
    luo.create("exact").require()
    pages = {name: handed(luo, "exact", name, size, size) for name, size in sizes.items()}
    before = {name: hashed(lab, pages[name]) for name in sizes}
    digests = {name: luo.digest(name) for name in sizes}
    for name, size in sizes.items():
        outside = hashed(lab, pages[name], size)
        assert outside == digests[name], f"{name}: the page map names other pages"
    kexec(lab)
    for name in sizes:
        assert hashed(lab, pages[name]) == before[name], f"{name}: a page changed before it was retrieved"
    new = opened(lab.host)
    new.retrieve("exact").require()
    for name, size in sizes.items():
        new.fetch("exact", size, name).require()
        assert np.array_equal(new.pages(name, size), pages[name]), f"{name} has other pages than before"
        assert new.digest(name) == digests[name], f"{name} has another content"
    new.finish("exact").require()
    for name in sizes:
        assert hashed(lab, pages[name]) == before[name], f"{name}: a page changed when all was finished"
    count = sum(map(len, pages.values()))
    seen(f"{len(sizes)} files, the largest of {max(sizes.values()) >> 20} MiB: {count} pages, all the same")


@claim("holes of a file are handed over as pages of zeros, and its size", source=MEMFD)
def test_holes(lab: Lab, luo: LiveUpdate, seen: Seen) -> None:
    size = 100 * PAGE + 5
    luo.create("holes").require()
    luo.memfd("sparse", size).require()
    luo.holder.call(f"pwrite {luo.number('sparse')} fill:100:0x5a 100 {50 * PAGE}").require()
    luo.preserve("holes", "sparse", TOKEN).require()
    pages = luo.pages("sparse", size)
    kexec(lab)
    rows = ram_of(lab.machine).rows(pages)
    expected = np.zeros_like(rows)
    expected[50, :100] = 0x5A
    assert np.array_equal(rows, expected), "a hole is not zeros"
    new = opened(lab.host)
    new.retrieve("holes").require()
    new.fetch("holes", TOKEN, "sparse").require()
    told = int(lab.host.run(f"stat -L -c %s {new.path('sparse')}"))
    seen(f"{len(pages)} pages, {told} bytes")
    assert told == size
    assert np.array_equal(new.pages("sparse", size), pages)


@claim("the position in a file and its seals are handed over", source=MEMFD)
def test_position_and_seals(lab: Lab, luo: LiveUpdate, seen: Seen) -> None:
    grow_shrink = 0x2 | 0x4
    luo.create("state").require()
    luo.memfd("file", 3 * PAGE).require()
    luo.holder.call(f"fcntl {luo.number('file')} 1033 {grow_shrink}").require()
    luo.preserve("state", "file", TOKEN).require()
    # Behind the preservation: the position is taken at the very last.
    luo.holder.call(f"lseek {luo.number('file')} 4711 0").require()
    kexec(lab)
    new = opened(lab.host)
    new.retrieve("state").require()
    number = new.fetch("state", TOKEN, "file").require() and new.number("file")
    at, seals = (call.result for call in new.holder.calls([f"lseek {number} 0 1", f"fcntl {number} 1034"]))
    seen(f"position {at}, seals {seals:#x}")
    assert (at, seals) == (4711, grow_shrink)
    assert new.holder.call(f"ftruncate {number} {4 * PAGE}").error == "EPERM", "a seal does not hold"


@claim("what is written to a file after it was preserved arrives as well", source=LUO)
def test_written_meanwhile(lab: Lab, luo: LiveUpdate, seen: Seen) -> None:
    luo.create("busy").require()
    pages = handed(luo, "busy", "data", 64 * PAGE)
    luo.fill("data", 64 * PAGE)
    digest = luo.digest("data")
    kexec(lab)
    assert hashed(lab, pages) == digest
    new = opened(lab.host)
    new.retrieve("busy").require()
    new.fetch("busy", TOKEN, "data").require()
    assert new.digest("data") == digest
    seen("64 pages, written again between preservation and kexec")


@claim("several sessions come over, each with its files, fetched in any order; an empty one too", source=LUO)
def test_several_sessions(lab: Lab, luo: LiveUpdate, seen: Seen) -> None:
    files = {"first": {7: 3 * PAGE, 2**64 - 1: PAGE, 0: 200 * PAGE}, "second": {7: 10 * PAGE}, "empty": {}}
    pages, digests = {}, {}
    for session, wanted in files.items():
        luo.create(session).require()
        for token, size in wanted.items():
            name = f"{session}-{token}"
            pages[name] = handed(luo, session, name, size, token)
            digests[name] = luo.digest(name)
    luo.memfd("nothing").require()
    luo.preserve("second", "nothing", 1).require()
    kexec(lab)
    new = opened(lab.host)
    for session in reversed(files):
        new.retrieve(session).require()
        for token, size in reversed(files[session].items()):
            name = f"{session}-{token}"
            new.fetch(session, token, name).require()
            assert np.array_equal(new.pages(name, size), pages[name]), f"{name} has other pages"
            assert new.digest(name) == digests[name], f"{name} has another content"
    new.fetch("second", 1, "nothing").require()
    assert lab.host.run(f"stat -L -c %s {new.path('nothing')}") == "0"
    assert [new.finish(session).error for session in files] == ["", "", ""]
    seen(f"{len(files)} sessions, {len(pages)} files with content, one without")


def fill_memory(kernel: Kernel) -> int:
    """Use up a kernel's memory but for ROOM; return how many MiB that took."""
    free = int(kernel.run("awk '/MemAvailable/ { print $2 }' /proc/meminfo"))
    mib = (free - ROOM) >> 10
    kernel.run(f"mount -o remount,size=100% /run && fallocate -l {mib}M /run/ballast", timeout=60)
    return mib


@claim("a kernel whose memory is nearly full hands over", source=KHO)
def test_full_predecessor(lab: Lab, luo: LiveUpdate, seen: Seen) -> None:
    luo.create("full").require()
    pages = handed(luo, "full", "data", 8 << 20)
    digest = luo.digest("data")
    mib = fill_memory(lab.host)
    kexec(lab)
    assert hashed(lab, pages) == digest
    new = opened(lab.host)
    new.retrieve("full").require()
    new.fetch("full", TOKEN, "data").require()
    assert new.digest("data") == digest
    seen(f"8 MiB handed over, beside {mib} MiB that were in use")


@claim("what nobody has retrieved yet stays as it is, however short the successor is of memory", source=KHO)
def test_full_successor(lab: Lab, luo: LiveUpdate, seen: Seen) -> None:
    luo.create("waiting").require()
    pages = handed(luo, "waiting", "data", 8 << 20)
    digest = luo.digest("data")
    kexec(lab)
    mib = fill_memory(lab.host)
    assert hashed(lab, pages) == digest, "the memory was used for something else"
    new = opened(lab.host)
    new.retrieve("waiting").require()
    new.fetch("waiting", TOKEN, "data").require()
    assert np.array_equal(new.pages("data", 8 << 20), pages)
    assert new.digest("data") == digest
    seen(f"8 MiB untouched, after {mib} MiB were used up")


FREED, NOISE = 5.0, 8
"""Seconds until pages that were given back are free, before scaling; MiB by which free memory varies."""


def free_kib(kernel: Kernel) -> int:
    return int(kernel.run("awk '/MemFree/ { print $2 }' /proc/meminfo"))


@claim("a session that is finished and whose files are closed gives their memory back", source=LUO)
@pytest.mark.parametrize("fetched", [True, False], ids=["fetched", "never fetched"])
def test_given_back_when_finished(lab: Lab, luo: LiveUpdate, seen: Seen, fetched: bool) -> None:
    size = 64 << 20
    luo.create("big").require()
    luo.memfd("data", size).require()
    luo.preserve("big", "data", TOKEN).require()
    kexec(lab)
    new, before = opened(lab.host), free_kib(lab.host)
    new.retrieve("big").require()
    if fetched:
        new.fetch("big", TOKEN, "data").require()
    new.finish("big").require()
    for name in ("big", *(["data"] if fetched else [])):
        new.close(name).require()
    # Each CPU keeps some free pages to itself, and what is freed late comes within a moment.
    limit = time.monotonic() + FREED * lab.host.factor
    while (back := (free_kib(lab.host) - before) >> 10) < 64 - NOISE and time.monotonic() < limit:
        lab.host.run("echo 1 >/proc/sys/vm/drop_caches")
        time.sleep(0.2)
    seen(f"{back} MiB of 64 are free again")
    assert 64 - NOISE <= back <= 64 + NOISE, f"{64 - back} MiB of 64 did not come back"


@claim("handovers can follow one another without an end: ten, with data changed in each", source=KHO)
def test_ten_in_a_row(lab: Lab, luo: LiveUpdate, seen: Seen) -> None:
    size, rounds = 1 << 20, 10
    luo.create("chain").require()
    pages = handed(luo, "chain", "data", size)
    areas = scratch(lab.host)
    for count in range(1, rounds + 1):
        digest = luo.digest("data")
        kexec(lab, initrd=pack_for_more(lab))
        assert hashed(lab, pages) == digest, f"handover {count}: a page changed"
        luo = opened(lab.host)
        luo.retrieve("chain").require()
        luo.fetch("chain", TOKEN, "data").require()
        assert luo.digest("data") == digest, f"handover {count}: the file has another content"
        luo.finish("chain").require()
        luo.close("chain").require()
        assert scratch(lab.host) == areas, f"handover {count}: other scratch areas"
        if count < rounds:
            luo.fill("data", size)
            luo.create("chain").require()
            luo.preserve("chain", "data", TOKEN).require()
            assert np.array_equal(luo.pages("data", size), pages)
    told = incoming(lab.host).compatible
    seen(f"{rounds} handovers, {len(pages)} pages, new content each time ({told})")
