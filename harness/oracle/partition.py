# SPDX-License-Identifier: MIT
"""The partition of a machine's memory, as it is: pages that were written, and by rights should not be.

The page map of QEMU's process tells which pages were written since a fork, not by whom. So this
looks where nobody has a reason to write: in memory that nobody claims, and in pages of a kernel that
are never written once it runs, its canaries and its constants. What a kernel could have written
besides is the question of harness.oracle.pagetables.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from harness.model import Evidence, Finding, Region
from harness.vm.ram import Ram
from harness.vm.ram_pages import PAGE, Bytes, Pages
from harness.vm.ram_scan import filled, regions_of

SHOWN = 8
"""Pages, or stretches of pages, that a finding shows."""
BYTES = 32


def pages_in(pages: Pages, regions: Iterable[Region]) -> Pages:
    """Return those of ``pages`` that lie in one of the regions, if only partly."""
    found = [np.empty(0, np.int64)]
    for region in regions:
        first, last = np.searchsorted(pages, (region.start // PAGE, -(-region.end // PAGE)))
        found.append(pages[first:last])
    return np.unique(np.concatenate(found))


def written_free(ram: Ram, written: Pages, free: Iterable[Region]) -> Finding | None:
    """Look for pages in memory that nobody claims which were ``written``.

    Zeros do not count: a kernel may clear what it gives back.
    """
    strays = filled(ram, pages_in(written, free))
    if not len(strays):
        return None
    stretches = ", ".join(map(str, regions_of(strays)[:SHOWN]))
    return Finding(
        f"{len(strays)} pages were written that belong to nobody: {stretches}",
        (Evidence("what is there now", _bytes_of(ram, strays)),),
    )


def written_constants(ram: Ram, written: Pages, constant: Pages, what: str) -> Finding | None:
    """Look for pages that nobody should write, ``what`` in words, and that were ``written``.

    The machine must be a fork: what is shown is the difference to its template.
    """
    strays = np.intersect1d(written, constant, assume_unique=True)
    if not len(strays):
        return None
    stretches = ", ".join(map(str, regions_of(strays)[:SHOWN]))
    return Finding(
        f"{len(strays)} of {len(constant)} pages of {what} were written: {stretches}",
        (Evidence("what was there, and what is", _difference(ram, strays)),),
    )


def _bytes_of(ram: Ram, pages: Pages) -> str:
    rows = ram.rows(pages[:SHOWN])
    return "\n".join(
        _line(page, int(np.flatnonzero(row)[0]), row) for page, row in zip(pages.tolist(), rows, strict=False)
    )


def _difference(ram: Ram, pages: Pages) -> str:
    lines = []
    before = {
        int(page): rows.copy()
        for pages_, chunk in ram.template().chunks(pages[:SHOWN])
        for page, rows in zip(pages_, chunk, strict=True)
    }
    for page, row in zip(pages[:SHOWN].tolist(), ram.rows(pages[:SHOWN]), strict=True):
        differs = np.flatnonzero(row != before[page])
        if not len(differs):
            lines.append(f"{page * PAGE:#x}: written with what was there")
            continue
        first = int(differs[0])
        lines += [
            f"{page * PAGE + first:#x}: {len(differs)} bytes of the page differ, the first here",
            f"  was {before[page][first : first + BYTES].tobytes().hex(' ')}",
            f"  is  {row[first : first + BYTES].tobytes().hex(' ')}",
        ]
    return "\n".join(lines)


def _line(page: int, first: int, row: Bytes) -> str:
    return f"{page * PAGE + first:#x}: {row[first : first + BYTES].tobytes().hex(' ')}"
