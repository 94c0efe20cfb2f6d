# SPDX-License-Identifier: MIT
"""The first megabyte, which is the host's and the firmware's: what a spawn does there (seen from outside)."""

from __future__ import annotations

import re

import numpy as np
import pytest

from harness.lab import Lab
from harness.model import Region, without
from harness.multikernel.interface import Interface
from harness.multikernel.payload import spawn_payload
from harness.plugin import Seen, claim
from harness.vm.ram import Ram, ram_of
from harness.vm.ram_pages import Pages
from harness.vm.ram_scan import regions_of

pytestmark = pytest.mark.needs("spawn")

MEGABYTE = Region(0, 1 << 20)
FIRMWARE = {
    "BIOS data area": Region(0x400, 0x100),
    "extended BIOS data area": Region(0x9FC00, 0x400),
    "ROMs": Region(0xC0000, 0x40000),
}
WARM_RESET = range(0x467, 0x46B)
"""The warm reset vector, which a host sets when it wakes a CPU. Source: MultiProcessor Specification B.4."""
WINDOW = 0x8000
"""Bytes below 1 MB in which a spawned kernel of the reference series starts its further CPUs."""


def low_pages(ram: Ram) -> Pages:
    """Return the pages of the first megabyte that were written since the fork."""
    written = ram.written()
    return written[written < MEGABYTE.size >> 12]


@claim(
    "a spawn leaves the firmware's data below 1 MB as it was (seen from outside)",
    source="interface sheet ME-P3: the first megabyte belongs to no spawned kernel",
)
def test_firmware_data(lab: Lab, seen: Seen) -> None:
    ram = ram_of(lab.machine)
    before = {name: ram.array(region.start, region.size) for name, region in FIRMWARE.items()}
    lab.pair()
    changed = {}
    for name, region in FIRMWARE.items():
        now = ram.array(region.start, region.size)
        places = [region.start + int(at) for at in np.flatnonzero(now != before[name])]
        changed[name] = [f"{place:#x}" for place in places if place not in WARM_RESET]
    seen("; ".join(f"{name}: {len(places)} bytes changed" for name, places in changed.items()))
    assert before["BIOS data area"].any(), "there is no BIOS data area"
    assert not any(changed.values()), str({name: places[:16] for name, places in changed.items()})


@claim(
    "of the first megabyte a spawn writes the host's trampolines and the new kernel's window, nothing else"
    " (seen from outside)",
    source="known bug V1-14: the trampoline is one area below 1 MB; interface sheet ME-P3",
)
def test_low_pages(lab: Lab, seen: Seen) -> None:
    ram, granted = ram_of(lab.machine), lab.topology.spawned[0]
    # What the host itself writes when it wakes one of its CPUs: its trampoline, the warm reset vector.
    online = f"/sys/devices/system/cpu/cpu{granted.cpus[0]}/online"
    lab.host.run(f"echo 0 >{online}; echo 1 >{online}")
    own = regions_of(low_pages(ram))
    log = lab.host.run("dmesg | grep 'Base memory trampoline' || true")
    named = [
        Region(int(start, 16), int(length)) for start, length in re.findall(r"\] ([0-9a-f]+) size (\d+)", log)
    ]
    windows = [*window_of(lab), *(area.region for area in lab.pair().instance.fixed)]
    written = regions_of(low_pages(ram))
    stray = without(written, [*own, *named, *windows])
    seen(
        f"written: {', '.join(map(str, written))}; by the host's own CPUs: {', '.join(map(str, own))};"
        f" window: {', '.join(map(str, windows)) or 'none'}"
    )
    bytes_there = "; ".join(f"{one}: {non_zero(ram, one)}" for one in stray)
    assert not stray, f"also written, and nobody's to write: {bytes_there}"


def window_of(lab: Lab) -> list[Region]:
    """Return the window that a spawned kernel of the reference series is told of; a payload says which."""
    if lab.dialect.numbers is None or lab.dialect.numbers.halt is None:
        return []
    payload = spawn_payload(lab, lab.topology.spawned[0])
    mk = Interface(lab.host, lab.dialect.numbers)
    mk.force(payload.instance.id).require()
    mk.remove(payload.instance.name).require()
    return [Region(payload.boot.told["realmode"], WINDOW)]


def non_zero(ram: Ram, region: Region) -> str:
    """Return the places and values of a region's first bytes that are not zero."""
    data = ram.array(region.start, region.size)
    places = np.flatnonzero(data)[:16]
    return ", ".join(f"{region.start + int(at):#x}={data[at]:#04x}" for at in places) or "zeros"
