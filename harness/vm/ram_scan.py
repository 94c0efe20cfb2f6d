# SPDX-License-Identifier: MIT
"""Searches, hashes and comparisons of guests' memory; only touched pages are looked at.

The hash is XXH3 with 64 bits: it finds changes at the speed of memory, and is no proof against
somebody who makes two pages alike on purpose.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import xxhash

from harness.errors import HarnessError, UsageError
from harness.model import Region, common
from harness.vm.ram import Ram
from harness.vm.ram_pages import PAGE, Bytes, Pages, runs

WINDOW = 1 << 20
"""Bytes searched at once."""
GAP = 16
"""Untouched pages that are searched, too, when that joins two stretches: zeros cost less than calls."""
_ZEROS = xxhash.xxh3_64_intdigest(bytes(PAGE))


@dataclass(frozen=True)
class Digests:
    """What memory held at one moment: the hash of each page that is not all zeros."""

    pages: Pages
    values: npt.NDArray[np.uint64]

    def changed_since(self, before: Digests) -> Pages:
        """Return the pages that hold something else than they did then."""
        ours = np.isin(self.pages, before.pages, assume_unique=True)
        theirs = np.isin(before.pages, self.pages, assume_unique=True)
        differing = self.pages[ours][self.values[ours] != before.values[theirs]]
        return np.union1d(np.concatenate((self.pages[~ours], before.pages[~theirs])), differing)

    def of(self, region: Region) -> int:
        """Return one hash for all pages of a region, of 64 bits. Its bounds must be pages' bounds."""
        if region.start % PAGE or region.size % PAGE:
            raise UsageError(f"{region} is hashed by pages, and is not made of whole pages")
        first, last = np.searchsorted(self.pages, (region.start // PAGE, region.end // PAGE))
        hashed = xxhash.xxh3_64(np.ascontiguousarray(self.pages[first:last] - region.start // PAGE).data)
        hashed.update(np.ascontiguousarray(self.values[first:last]).data)
        return hashed.intdigest()


def digests(ram: Ram, pages: Pages | None = None) -> Digests:
    """Hash ``pages``, by default all that were touched."""
    numbers: list[Pages] = []
    values: list[int] = []
    digest = xxhash.xxh3_64_intdigest
    for chunk, data in ram.chunks(pages):
        numbers.append(chunk)
        values += map(digest, data)
    found = np.array(values, np.uint64)
    kept = found != _ZEROS
    return Digests(np.concatenate(numbers)[kept] if numbers else np.empty(0, np.int64), found[kept])


def differing(one: Ram, other: Ram) -> Pages:
    """Return the pages that differ between two machines, or a machine and its template.

    Forks of one template differ nowhere but where one of them has written, so only that is read.
    Raises HarnessError when the two have not the same regions of memory.
    """
    if one.regions != other.regions:
        raise HarnessError("the two machines have different memory layouts, and cannot be compared")
    result = [np.empty(0, np.int64)]
    if one.same_template(other):
        # Where neither has a page of its own both have the file's.
        pages = np.unique(np.concatenate([*result, *(ram.written() for ram in (one, other) if ram.forked)]))
    else:
        pages = np.union1d(one.touched(), other.touched())
    for (numbers, mine), (_, theirs) in zip(one.chunks(pages), other.chunks(pages), strict=True):
        result.append(numbers[(_words(mine) != _words(theirs)).any(axis=1)])
    return np.concatenate(result)


def filled(ram: Ram, pages: Pages | None = None) -> Pages:
    """Return which of ``pages``, by default of all that were touched, are not all zeros."""
    found = [numbers[_words(data).any(axis=1)] for numbers, data in ram.chunks(pages)]
    return np.concatenate([np.empty(0, np.int64), *found])


def find(ram: Ram, pattern: bytes, within: Iterable[Region] | None = None) -> Iterator[int]:
    """Yield each address where ``pattern`` stands, from the lowest; occurrences may overlap.

    Only those that lie in one of the regions ``within`` with all their bytes. Raises UsageError for
    a pattern of nothing but zeros: untouched memory is full of it.
    """
    if not pattern.strip(b"\0"):
        raise UsageError("a pattern to search for needs a byte that is not zero")
    starts, lengths = runs(ram.touched())
    for region in common(ram.regions, ram.regions if within is None else within):
        for start, end in _windows(starts, lengths, region, len(pattern)):
            yield from _find_in(ram, pattern, start, end)


def regions_of(pages: Pages) -> tuple[Region, ...]:
    """Return the regions that pages make up."""
    starts, lengths = runs(pages)
    return tuple(
        Region(start * PAGE, length * PAGE)
        for start, length in zip(starts.tolist(), lengths.tolist(), strict=True)
    )


def _words(rows: Bytes) -> npt.NDArray[np.uint64]:
    return rows.view(np.uint64)


def _windows(starts: Pages, lengths: Pages, region: Region, length: int) -> Iterator[tuple[int, int]]:
    """Yield the stretches of a region in which a pattern could touch a touched page."""
    # A pattern may begin or end with zeros, which untouched pages have.
    begins = np.maximum(starts * PAGE - (length - 1), region.start)
    ends = np.minimum((starts + lengths) * PAGE + (length - 1), region.end)
    inside = ends - begins >= length
    begins, ends = begins[inside], ends[inside]
    if not len(begins):
        return
    apart = begins[1:] > ends[:-1] + GAP * PAGE
    yield from zip(begins[np.r_[True, apart]].tolist(), ends[np.r_[apart, True]].tolist(), strict=True)


def _find_in(ram: Ram, pattern: bytes, start: int, end: int) -> Iterator[int]:
    """Search one stretch, a window after the other; those overlap by all but one byte of the pattern."""
    overlap = len(pattern) - 1
    step = max(WINDOW, 2 * len(pattern))
    buffer = bytearray(min(step + overlap, end - start))
    view = np.frombuffer(buffer, np.uint8)
    for address in range(start, end - overlap, step):
        size = min(step + overlap, end - address)
        ram.read_into(address, view[:size])
        at = buffer.find(pattern, 0, size)
        while at >= 0:
            yield address + at
            at = buffer.find(pattern, at + 1, size)
