# SPDX-License-Identifier: MIT
"""What is handed over is damaged between the kernels, from outside: the successor says so and uses none.

The machine stands still where the predecessor jumps; nothing runs that could repair or hide the damage.
"""

from __future__ import annotations

import struct
from collections.abc import Callable

import numpy as np
import pytest

from harness.kexec import await_successor, between_kernels, load
from harness.lab import BOOT_TIMEOUT, Lab
from harness.model import Region
from harness.multikernel.handover import KHO, LUO, METADATA, LiveUpdate, opened, parse_tree
from harness.oracle import preserved
from harness.plugin import Seen, claim
from harness.vm.console import printed
from harness.vm.ram import Ram
from harness.vm.ram_pages import PAGE

ABI = "Documentation/core-api/kho/abi.rst"
LUO_ABI = "Documentation/core-api/liveupdate.rst, Live Update Orchestrator ABI"
PANICS = "kernel/liveupdate/luo_internal.h, luo_restore_fail()"
FILES = "Documentation/core-api/liveupdate.rst, LUO Preserving File Descriptors"

TOKEN = 0xBAD
NOWHERE = 0x7F_FFFF_F000
"""An address that no machine here has RAM at."""

pytestmark = pytest.mark.needs("kho", "luo")


def number(value: int) -> bytes:
    """Return a number as KHO has it in its tree."""
    return struct.pack("<Q", value)


class Left:
    """What a predecessor leaves in memory, to be damaged."""

    def __init__(self, ram: Ram, announced: bytes) -> None:
        self.ram = ram
        self.at = preserved.find_tree(ram, announced[:8])
        size = int.from_bytes(ram.read(self.at + 4, 4), "big")
        self.blob = ram.read(self.at, size)
        self.tree = parse_tree(self.blob)

    @property
    def session(self) -> preserved.Session:
        return preserved.sessions(self.ram, self.luo)[0]

    @property
    def luo(self) -> Region:
        return self.tree.blobs[LUO]

    def header(self, word: int, value: int) -> None:
        """Change a word of the device tree's header."""
        self.ram.write(self.at + 4 * word, struct.pack(">I", value))

    def replace(self, old: bytes, new: bytes) -> None:
        """Put other bytes where these stand in the tree, which is in one place."""
        assert self.blob.count(old) == 1, f"{old!r} stands {self.blob.count(old)} times in the tree"
        self.ram.write(self.at + self.blob.index(old), new)

    def size_of(self, value: int, size: int) -> None:
        """Have the property that holds this number say that it has another size."""
        self.ram.write(self.at + self.blob.index(number(value)) - 8, struct.pack(">I", size))


def list_nowhere(left: Left) -> None:
    """Have the map of preserved memory name folios that are no RAM."""
    node = left.tree.memory_map
    for _ in range(preserved.LEVELS - 2):
        node = int(left.ram.array(node, PAGE).view(np.uint64).max())
    table = left.ram.array(node, PAGE).view(np.uint64)
    # Each entry is a bitmap for 128 MiB; there are folios of one page in the first ones.
    table[(NOWHERE >> 27) % len(table)] = table[np.flatnonzero(table)[0]]
    left.ram.write(node, table)


Damage = Callable[[Left], None]


def hand_over(lab: Lab, luo: LiveUpdate, damage: Damage) -> int:
    """Hand a session over, damaged; return where the successor's words begin on the console."""
    luo.create("session").require()
    luo.memfd("data", 16 * PAGE).require()
    luo.fill("data", 16 * PAGE)
    luo.preserve("session", "data", TOKEN).require()
    announced = lab.host.channel.get(f"{KHO}/out/fdt")
    load(lab)
    with between_kernels(lab) as ram:
        mark = lab.host.console.mark
        damage(Left(ram, announced))
    return mark


def said_since(lab: Lab, mark: int, *words: str) -> list[str]:
    """Return the lines since ``mark`` that hold one of ``words``, without their time."""
    lab.machine.drain()
    lines = lab.host.console.transcript[mark:].decode(errors="replace").splitlines()
    return [line.partition("] ")[2] for line in lines if any(word in line for word in words)]


TREES: dict[str, tuple[Damage, str]] = {
    "all zeros": (lambda left: left.ram.write(left.at, bytes(PAGE)), "is invalid"),
    "cut off": (lambda left: left.header(1, 64), "is invalid"),
    "longer than its page": (lambda left: left.header(1, 0x7FFF_FFFF), "is in"),
    "parts beyond its end": (lambda left: left.header(9, 0x10000), "is invalid"),
    "another ABI": (lambda left: left.replace(b"kho-v", b"kho-w"), "is incompatible"),
    "no compatible": (lambda left: left.replace(b"compatible\0", b"incompetent"), "is incompatible"),
    "a map's address of 4 bytes": (lambda left: left.size_of(left.tree.memory_map, 4), "failed to get"),
}


@claim(
    "a device tree that is damaged or of another ABI is refused with a message; the kernel starts", source=ABI
)
@pytest.mark.parametrize("damage", TREES)
def test_tree(lab: Lab, luo: LiveUpdate, seen: Seen, damage: str) -> None:
    act, why = TREES[damage]
    memory = int(lab.host.run("awk '/MemTotal/ { print $2 }' /proc/meminfo")) >> 10
    mark = hand_over(lab, luo, act)
    await_successor(lab)
    said = said_since(lab, mark, "KHO")
    seen(f"{damage}: {'; '.join(said)}")
    assert any(why in line for line in said), said
    assert said[-1] == "KHO: disabling KHO revival"
    assert lab.host.run(f"ls {KHO}") == "out"
    fresh = opened(lab.host)
    assert fresh.retrieve("session").error == "ENOENT"
    fresh.create("session").require()
    after = int(lab.host.run("awk '/MemTotal/ { print $2 }' /proc/meminfo")) >> 10
    assert abs(after - memory) < 64, f"{memory} MiB before, {after} after"


BLOBS: dict[str, tuple[Damage, str]] = {
    "too small": (lambda left: left.replace(number(left.tree.blobs[METADATA].size), number(2)), "too small"),
    "another version": (
        lambda left: left.ram.write(left.tree.blobs[METADATA].start, struct.pack("<I", 4711)),
        "version 4711 not supported",
    ),
}


@claim("metadata that the kernel does not know are left out with a message; the rest is taken", source=ABI)
@pytest.mark.parametrize("damage", BLOBS)
def test_metadata(lab: Lab, luo: LiveUpdate, seen: Seen, damage: str) -> None:
    act, why = BLOBS[damage]
    mark = hand_over(lab, luo, act)
    await_successor(lab)
    said = said_since(lab, mark, "metadata", "exec from")
    seen(f"{damage}: {'; '.join(said)}")
    assert [why in line for line in said] == [True]
    new = opened(lab.host)
    new.retrieve("session").require()
    new.fetch("session", TOKEN, "data").require()


ROOTS: dict[str, tuple[Damage, str]] = {
    "too small": (lambda left: left.replace(number(left.luo.size), number(8)), "LUO state is too small"),
    "of another ABI": (lambda left: left.ram.write(left.luo.start, b"luo-v0"), "LUO state is incompatible"),
    "a chain without an end": (
        lambda left: left.ram.write(left.session.at - 16, number(left.session.at - 16)),
        "Block set is corrupted",
    ),
    "more sessions than fit": (
        lambda left: left.ram.write(left.session.at - 8, number(1000)),
        "Block contains invalid entry count: 1000",
    ),
}


@claim(
    "live update state that is damaged stops the kernel, which says why, before it runs a program",
    source=PANICS,
)
@pytest.mark.parametrize("damage", ROOTS)
def test_live_update_state(lab: Lab, luo: LiveUpdate, seen: Seen, damage: str) -> None:
    act, why = ROOTS[damage]
    with lab.host.console.expected("The incoming tree failed to initialize properly"):
        mark = hand_over(lab, luo, act)
        lab.host.console.expect("end Kernel panic", timeout=BOOT_TIMEOUT)
    said = said_since(lab, mark, "luo:", "not syncing")
    seen(f"{damage}: {said[-2] if len(said) > 1 else said}")
    assert any(why in line for line in said), said
    assert not said_since(lab, mark, "user space"), "its user space ran"


SESSIONS: dict[str, tuple[Damage, str]] = {
    "a kind that nobody knows": (
        lambda left: left.ram.write(left.session.files[0].at, b"memfd-v0"),
        "No registered handler for compatible 'memfd-v0'",
    ),
    "another count of files": (
        lambda left: left.ram.write(left.session.at + 72, number(2)),
        "File count mismatch: expected 2, found 1",
    ),
}


@claim(
    "a session whose files make no sense is not given to anybody; the kernel says why and runs on",
    source=FILES,
)
@pytest.mark.parametrize("damage", SESSIONS)
def test_session(lab: Lab, luo: LiveUpdate, seen: Seen, damage: str) -> None:
    act, why = SESSIONS[damage]
    mark = hand_over(lab, luo, act)
    await_successor(lab)
    new = LiveUpdate(lab.host)
    errors = [new.open().error, new.open().error]
    said = said_since(lab, mark, "luo:")
    seen(f"{damage}: open() is {errors[0]}; {'; '.join(said[1:])}")
    assert errors == ["EIO", "EIO"]
    assert any(why in line for line in said), said


ABSURD: dict[str, Damage] = {
    "the map is nowhere": lambda left: left.replace(number(left.tree.memory_map), number(NOWHERE)),
    "the map lies across pages": lambda left: left.replace(
        number(left.tree.memory_map), number(left.tree.memory_map + 1)
    ),
    "a folio is nowhere": list_nowhere,
    "metadata are nowhere": lambda left: left.replace(
        number(left.tree.blobs[METADATA].start), number(NOWHERE)
    ),
    "live update state is nowhere": lambda left: left.replace(number(left.luo.start), number(NOWHERE)),
    "sessions are nowhere": lambda left: left.ram.write(left.luo.start + 16, number(NOWHERE)),
    "a file is nowhere": lambda left: left.ram.write(left.session.files[0].at + 48, number(NOWHERE)),
}


@claim("an address that cannot be is refused with a message, and not used", source=ABI)
@pytest.mark.parametrize("damage", ABSURD)
def test_absurd(lab: Lab, luo: LiveUpdate, seen: Seen, damage: str) -> None:
    mark = lab.host.console.mark
    with lab.host.console.expected("", required=False):
        hand_over(lab, luo, ABSURD[damage])
        lab.host.console.expect(
            printed("mkh: user space is up on host") + "|end Kernel panic|PANIC: early exception",
            timeout=BOOT_TIMEOUT,
        )
    splats = lab.host.console.splats(mark)
    if splats:
        # What died so early is in no state to be asked anything.
        lab.machine.end()
        pytest.fail(f"{damage}: {splats[0].title}", pytrace=False)
    lab.host.channel.wait_ready(BOOT_TIMEOUT)
    new = opened(lab.host)
    new.retrieve("session").require()
    error = new.fetch("session", TOKEN, "data").error
    seen(f"{damage}: {error}")
    assert error
