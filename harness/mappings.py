# SPDX-License-Identifier: MIT
"""What made a mapping of memory, as well as it can be known: by zone, by symbol, by the kernel's own list."""

from __future__ import annotations

import re
from collections.abc import Iterator

from harness.errors import HarnessError
from harness.klog.symbols import Symbols
from harness.model import Region
from harness.multikernel.kernel import Kernel
from harness.oracle.pagetables import Leaves, Mapping
from harness.vm.ram import Ram
from harness.vm.ram_scan import find

ANSWER_LIMIT = 5.0
"""Seconds that a kernel has to list its mappings, before scaling by the accelerator."""
ZONES = (
    (0xFFFF_FFFF_C000_0000, "modules"),
    (0xFFFF_FFFF_8000_0000, "the kernel's image"),
    (0xFFFF_EA00_0000_0000, "vmemmap"),
    (0xFFFF_C900_0000_0000, "vmalloc"),
    (0xFFFF_8880_0000_0000, "the direct map"),
    (0xFFD4_0000_0000_0000, "vmemmap"),
    (0xFFA0_0000_0000_0000, "vmalloc"),
    (0xFF11_0000_0000_0000, "the direct map"),
)
"""Where a kernel's address space has what, with four and with five levels of page tables, unless it is
randomised. Source: Documentation/arch/x86/x86_64/mm.rst."""
_AREA = re.compile(r"^\S+ +(?P<size>\d+) (?P<who>\S+).* phys=0x(?P<phys>[0-9a-f]+)", re.MULTILINE)
"""A line of /proc/vmallocinfo that is of memory mapped on purpose; its addresses are hashed."""


def origin(mapping: Mapping, leaves: Leaves, ram: Ram, kernel: Kernel, symbols: Symbols | None) -> str:
    """Say where in the address space of ``kernel`` a mapping is, and what made it; the guest may run.

    ``leaves`` are the kernel's page tables, ``symbols`` its symbols where there are any.
    """
    zone = next((name for start, name in ZONES if mapping.virtual >= start), "user space")
    if zone == "the kernel's image" and symbols is not None:
        return f"{zone}, {symbols.name(mapping.virtual)}"
    if zone != "vmalloc":
        return zone
    made = [f"by {who}" for who in _made_by(mapping, kernel)]
    kept = [f"for {what}" for what in _kept_in(mapping, leaves, ram, symbols)]
    return " ".join([zone, *made, *kept])


def _made_by(mapping: Mapping, kernel: Kernel) -> Iterator[str]:
    try:
        areas = kernel.run("cat /proc/vmallocinfo", timeout=ANSWER_LIMIT)
    except HarnessError:
        return
    for area in _AREA.finditer(areas):
        if Region(int(area["phys"], 16), int(area["size"])).contains(mapping.physical):
            yield area["who"]


def _kept_in(mapping: Mapping, leaves: Leaves, ram: Ram, symbols: Symbols | None) -> Iterator[str]:
    """Name the kernel's variables that hold the mapping's address."""
    start, end = (symbols.address("_sdata"), symbols.address("_end")) if symbols else (None, None)
    physical = leaves.translate(start) if start else None
    if symbols is None or start is None or end is None or physical is None:
        return
    for address in find(ram, mapping.virtual.to_bytes(8, "little"), [Region(physical, end - start)]):
        yield symbols.name(start + address - physical)
