# SPDX-License-Identifier: MIT
"""Where a guest sees the bytes of its memory's file."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from harness.errors import HarnessError
from harness.model import Region
from harness.vm.qmp import Qmp, QmpError
from harness.vm.ram_pages import PAGE, Pages

PARTS = ("ram-below-4g", "ram-above-4g")
"""QEMU's names for the two parts in which a PC shows its memory, in the file's order.

Where the cut is depends on the machine type and the size (pc: 3 GiB when there are 3.5 or more;
q35: 2 GiB when there are 2.75 or more), so QEMU is asked. Source: QEMU's hw/i386/pc.c and pc_q35.c.
"""


class Layout:
    """The guest-physical ``regions`` that show a file's bytes, in its order; whole pages each."""

    def __init__(self, regions: Sequence[Region]) -> None:
        self.regions = tuple(regions)
        sizes = np.array([region.size for region in regions], np.int64) // PAGE
        self._guest = np.array([region.start for region in regions], np.int64) // PAGE
        self._ends = self._guest + sizes
        self._file = np.cumsum(sizes) - sizes
        self.pages = int(sizes.sum())
        """How many pages the file has."""

    def offset(self, address: int, size: int) -> int:
        """Return where in the file ``size`` bytes from ``address`` are.

        Raises HarnessError when they are not all in one region.
        """
        if size > 0 and address >= 0:
            wanted = Region(address, size)
            for region, page in zip(self.regions, self._file, strict=True):
                if region.contains(wanted):
                    return int(page) * PAGE + address - region.start
        raise self._outside(f"{size} bytes at {address:#x}")

    def to_guest(self, pages: Pages) -> Pages:
        """Translate the file's page numbers into the guest's."""
        part = np.searchsorted(self._file, pages, "right") - 1
        return pages + (self._guest - self._file)[part]

    def to_file(self, pages: Pages) -> Pages:
        """Translate the guest's page numbers into the file's. Raises HarnessError for what is not RAM."""
        part = np.searchsorted(self._guest, pages, "right") - 1
        outside = (part < 0) | (pages >= self._ends[part])
        if outside.any():
            raise self._outside(f"page {int(pages[outside][0]):#x}")
        return pages + (self._file - self._guest)[part]

    def _outside(self, what: str) -> HarnessError:
        places = ", ".join(map(str, self.regions))
        return HarnessError(f"not in the guest's RAM: {what}; the RAM is {places}")


def read_layout(qmp: Qmp) -> Layout:
    """Ask QEMU where its guest's memory is. Raises HarnessError when it has ended."""
    regions = []
    for part in PARTS:
        path = f"/machine/unattached/{part}[0]"
        try:
            start, size = (qmp.execute("qom-get", path=path, property=what) for what in ("addr", "size"))
        except QmpError:
            # A small machine has no second part; every one has the first.
            if part == PARTS[0]:
                raise
            continue
        regions.append(Region(start, size))
    return Layout(regions)
