# SPDX-License-Identifier: MIT
"""What a kernel finds at its very first instruction, shown by a few bytes of machine code in its place."""

from __future__ import annotations

import time
from contextlib import suppress

import pytest
from msgspec.structs import replace

from harness.definition import Pool, load_topology
from harness.errors import HarnessError
from harness.lab import Lab
from harness.model import Region
from harness.multikernel import calls, segments
from harness.multikernel.dialect import Image, start_call
from harness.multikernel.instance import Instance
from harness.multikernel.interface import LOAD_LIMIT
from harness.multikernel.kimage import parse_kimage
from harness.multikernel.payload import FILE, START_LIMIT
from harness.plugin import Seen, claim
from harness.vm.ram import ram_of

pytestmark = [
    pytest.mark.needs("spawn", "kimage"),
    pytest.mark.trespass("a CPU that was started and runs no kernel has whatever page tables it began with"),
]

GIB, PAGE = 1 << 30, 4096
FOUND, REACHED, ROOM = 0x100, 0x108, 0x110
"""Offsets from the entry: what was in %rsi, how many steps the code has made, and the end of it all."""
UNTOUCHED = 0xA5
ACROSS = replace(load_topology("pair"), memory_mib=6144, pool=Pool(5 * GIB - (64 << 20), 0x2000_0000))
"""A machine whose pool begins below a GiB boundary above 4 GiB, and ends above it."""


def relative(opcode: bytes, at: int, target: int, operand: bytes = b"") -> bytes:
    """Return an instruction at offset ``at`` whose operand is addressed relative to %rip."""
    distance = target - (at + len(opcode) + 4 + len(operand))
    return opcode + distance.to_bytes(4, "little", signed=True) + operand


def machine_code(places: tuple[int, ...] = ()) -> bytes:
    """Return code that keeps %rsi, reads a byte at each of the places, counts its steps, and halts."""
    code = relative(b"\x48\x89\x35", 0, FOUND)  # mov %rsi, FOUND
    for step, place in enumerate((None, *places)):
        if place is not None:
            code += b"\x48\xb8" + place.to_bytes(8, "little") + b"\x8a\x00"  # movabs; mov (%rax), %al
        code += relative(b"\xc6\x05", len(code), REACHED, bytes([step]))  # movb $step, REACHED
    code += b"\xf4\xeb\xfd"  # hlt, and again
    assert len(code) <= FOUND
    return code.ljust(ROOM, bytes([UNTOUCHED]))


def loaded(lab: Lab) -> tuple[Instance, int]:
    """Load an image for the first spawned kernel; return its instance and where its first instruction is."""
    instance = lab.dialect.grant(lab.host, lab.topology, lab.topology.spawned[0])
    if lab.dialect.numbers is None:
        # As it is: a loader's entry stub would have its own page tables and registers.
        start = instance.ram.start
        segments.load(lab.host, f"{ROOM}@{start:#x}+{segments.PAGE}", start).require()
    else:
        lab.dialect.load(lab.host, instance, Image(FILE), "")
    (image,) = parse_kimage(lab.host.read(lab.dialect.kimage))
    return instance, image.start


def run(lab: Lab, instance: Instance, entry: int, *places: int) -> int | None:
    """Start an instance with code at its entry in place of what was loaded; return how many places it read.

    None when it did not even begin.
    """
    ram, code = ram_of(lab.machine), machine_code(places)
    ram.write(entry, code)
    assert ram.read(entry, len(code)) == code
    with suppress(HarnessError):  # the machine may end of it
        calls.call(lab.host, start_call(lab.dialect, instance), limit=LOAD_LIMIT)
    limit = time.monotonic() + START_LIMIT * lab.host.factor
    while (step := ram.read(entry + REACHED, 1)[0]) != len(places) and time.monotonic() < limit:
        if lab.machine.ended():
            break
        time.sleep(0.05)
    return None if step == UNTOUCHED else step


@claim(
    "the boot parameters that a kernel is handed lie in its own memory, or there are none",
    source="known bug V1-19: the host's own are handed over; Documentation/arch/x86/boot.rst: %rsi",
)
def test_own_boot_parameters(lab: Lab, seen: Seen) -> None:
    instance, entry = loaded(lab)
    assert run(lab, instance, entry) == 0, f"nothing ran at its entry, {entry:#x}"
    handed = int.from_bytes(ram_of(lab.machine).read(entry + FOUND, 8), "little")
    seen(f"%rsi {handed:#x} at {entry:#x}, its memory is {instance.ram}")
    assert not handed or instance.ram.contains(Region(handed, PAGE)), (
        f"{handed:#x} is not in {instance.ram}: it is whatever the host keeps there"
    )


@claim(
    "a kernel reaches all of its memory from its first instruction on, above 4 GiB and across GiB boundaries",
    source="known bug V1-15: the page tables that it starts on map 4 GiB, and the one GiB of its entry",
)
@pytest.mark.parametrize("machine", [ACROSS], indirect=True, ids=["across"])
def test_reaches_its_memory(machine: Lab, seen: Seen) -> None:
    instance, entry = loaded(machine)
    ram = instance.ram
    boundary = (ram.start // GIB + 1) * GIB
    assert ram.start < boundary < ram.end, f"{ram} crosses no GiB boundary"
    places = (ram.start, boundary - 1, boundary, ram.end - 1)
    steps = run(machine, instance, entry, *places)
    told = "nothing ran" if steps is None else f"read {', '.join(f'{place:#x}' for place in places[:steps])}"
    ended = machine.machine.ended()
    seen(f"{ram}, entry {entry:#x}: {told}" + (f", then {ended}" if ended else ""))
    assert steps == len(places), f"of {', '.join(f'{place:#x}' for place in places)}: {told}; {ended}"
