# SPDX-License-Identifier: MIT
"""The coverage counters of all kernels of one build that are in a machine's memory, dead ones too.

No guest is asked, no page table walked: a kernel's image is found by its constants, which stand at
fixed distances from its beginning, itself at a multiple of ALIGN. So a kernel that has crashed, was
stopped or never came as far as its own list of counters is counted all the same.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from harness.errors import HarnessError
from harness.klog.gcov import Constants, Counts, Unit, read_units
from harness.klog.symbols import Symbols
from harness.vm.ram import Ram
from harness.vm.ram_pages import PAGE, Pages

ALIGN = 2 << 20
"""Where an image may begin: CONFIG_PHYSICAL_ALIGN of a 64-bit kernel."""
IMPLAUSIBLE = 1 << 40
"""No counter gets as far in a test: what is there is no counter any more."""
START, BANNER = "_text", "linux_banner"


class Counters:
    """Reads the counters of the kernel ``vmlinux``. Raises HarnessError when that has no symbols."""

    def __init__(self, vmlinux: Path) -> None:
        symbols = Symbols(vmlinux)
        self.units: tuple[Unit, ...] = read_units(vmlinux)
        start, banner = symbols.address(START), symbols.address(BANNER)
        if start is None or banner is None:
            raise HarnessError(f"{vmlinux} has no {START} or no {BANNER}")
        self._start = start
        text = Constants(vmlinux).text(banner).encode()
        self._constants = [(banner, text), *((unit.stamp_at, unit.mark) for unit in self.units)]
        self._blocks = [_block(unit) for unit in self.units]

    def read(self, ram: Ram) -> list[Counts]:
        """Return the counters of each kernel found in a machine's memory, which stands still.

        What is left of a kernel whose memory was used again is not counted: its counters would be
        less than they were at the fork, or more than can be.
        """
        template = ram.template() if ram.forked else None
        found = []
        for base in self._images(ram):
            values = self._values(ram, base)
            if (values >= IMPLAUSIBLE).any():
                continue
            if (
                template is not None
                and self._is_image(template, base)
                and (values < self._values(template, base)).any()
            ):
                continue
            found.append(values)
        return found

    def _images(self, ram: Ram) -> list[int]:
        pages = ram.touched()
        bases = pages[pages % (ALIGN // PAGE) == 0] * PAGE
        return [base for base in bases.tolist() if self._is_image(ram, base)]

    def _is_image(self, ram: Ram, base: int) -> bool:
        try:
            return all(
                ram.read(base + address - self._start, len(text)) == text for address, text in self._constants
            )
        except HarnessError:
            return False  # It would reach beyond the RAM.

    def _values(self, ram: Ram, base: int) -> Counts:
        blocks = [
            ram.array(base + start - self._start, size).view(np.uint64)[places]
            for start, size, places in self._blocks
        ]
        return np.concatenate([np.empty(0, np.uint64), *blocks])


def _block(unit: Unit) -> tuple[int, int, Pages]:
    """Return where the memory begins that a unit's counters are in, its bytes, and each counter's place."""
    areas = [(address, number) for function in unit.functions for _, address, number in function.counters]
    start = min(address for address, _ in areas)
    end = max(address + 8 * number for address, number in areas)
    return (
        start,
        end - start,
        np.concatenate([np.arange(number) + (address - start) // 8 for address, number in areas]),
    )
