# SPDX-License-Identifier: MIT
"""Guest-physical memory of a machine, read and written from outside, of a fork too.

ram = ram_of(machine)
ram.read(0x1000, 16)
ram.written()               # pages written since the fork

Reading never makes a page that the guest has not touched: where a fork has no page of its own, the
template's file is read (a hole reads as zeros and stays a hole), and QEMU's memory only where it
has one. A machine that runs changes while it is read; freeze it for a picture of one moment. What
is written from outside is data: TCG does not notice that code it has translated was changed.
"""

from __future__ import annotations

import errno
import mmap
import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from harness.errors import HarnessError
from harness.model import Region
from harness.vm.machine import Machine
from harness.vm.ram_layout import Layout, read_layout
from harness.vm.ram_pages import PAGE, Bytes, Pages, PrivatePages, find_mapping, runs

SLICE = 64 << 20
"""Bytes read by one call; pread(2) and process_vm_readv(2) stop short of 2 GiB."""
CHUNK = 256
"""Pages handed out at once: 1 MiB, which stays in a processor's cache."""
_HOLE, _DATA, _OWN = range(3)
"""Where a page's bytes come from: nowhere (zeros), the file, the fork's own page."""


class Ram:
    """The memory of one guest: ``file``, with ``private`` pages above it when it is a fork's.

    Page numbers are guest-physical addresses divided by 4096. Every method raises HarnessError when
    the machine is gone. Any thread may call them.
    """

    def __init__(self, file: BinaryIO, layout: Layout, private: PrivatePages | None = None) -> None:
        self._file = file
        self._layout = layout
        self._private = private
        self._template_data: npt.NDArray[np.bool_] | None = None
        self._mapped: Bytes | None = None

    @property
    def regions(self) -> tuple[Region, ...]:
        """Where the guest has RAM."""
        return self._layout.regions

    @property
    def forked(self) -> bool:
        """Whether the memory is a fork's, above its template's."""
        return self._private is not None

    def read(self, address: int, size: int) -> bytes:
        """Return ``size`` bytes from ``address``. Raises HarnessError when not all of it is RAM."""
        return self.array(address, size).tobytes()

    def array(self, address: int, size: int) -> Bytes:
        """Return such bytes as an array of one's own; ``.view(np.uint64)`` makes words of them."""
        self._layout.offset(address, size)
        data = np.empty(size, np.uint8)
        self.read_into(address, data)
        return data

    def read_into(self, address: int, target: Bytes) -> None:
        """Fill the contiguous array ``target`` with what is at ``address``."""
        offset = self._layout.offset(address, target.size)
        for start in range(0, target.size, SLICE):
            self._fill(offset + start, target[start : start + SLICE])

    def write(self, address: int, data: bytes | npt.NDArray[Any]) -> None:
        """Write ``data`` at ``address``. Raises HarnessError when not all of it is RAM, or a template's."""
        flat = np.frombuffer(data, np.uint8) if isinstance(data, bytes) else np.ascontiguousarray(data)
        octets = flat.reshape(-1).view(np.uint8)
        offset = self._layout.offset(address, octets.size)
        if self._private is not None:
            self._private.write(offset, octets)
            return
        try:
            os.pwrite(self._descriptor(), octets.data, offset)
        except OSError as error:
            if error.errno != errno.EBADF:
                raise HarnessError(f"the guest's memory cannot be written: {error.strerror}") from None
            advice = "write to a fork of it"
            raise HarnessError("a template's memory is never written", advice=advice) from None

    def written(self) -> Pages:
        """Return the pages written since the fork, by the guest, its devices or from outside.

        A machine that is no fork shares its memory with its file: for it, that is ``touched()``.
        """
        if self._private is None:
            return self.touched()
        return self._layout.to_guest(self._private.pages())

    def touched(self) -> Pages:
        """Return the pages that may hold something else than zeros."""
        touched = self._file_data()
        if self._private is not None:
            touched = touched.copy()
            touched[self._private.pages()] = True
        return self._layout.to_guest(np.flatnonzero(touched))

    def chunks(self, pages: Pages | None = None) -> Iterator[tuple[Pages, Bytes]]:
        """Yield ``pages``, by default all that were touched, as (numbers, array of n times 4096 bytes).

        The array is used again for the next ones. Raises HarnessError for pages that are not RAM.
        """
        source = np.where(self._file_data(), _DATA, _HOLE).astype(np.uint8)
        if self._private is not None:
            source[self._private.pages()] = _OWN
        wanted = np.flatnonzero(source != _HOLE) if pages is None else self._layout.to_file(pages)
        buffer = np.empty((CHUNK, PAGE), np.uint8)
        for first in range(0, len(wanted), CHUNK):
            chunk = wanted[first : first + CHUNK]
            rows = buffer[: len(chunk)]
            self._gather(chunk, source[chunk], rows)
            yield self._layout.to_guest(chunk), rows

    def rows(self, pages: Pages) -> Bytes:
        """Return ``pages``, in any order, as an array of n times 4096 bytes.

        For few pages, and such as the guest has touched, page tables for example: what it has not
        would be touched now. Raises HarnessError for pages that are not RAM.
        """
        offsets = self._layout.to_file(pages)
        if self._private is None:
            return self._map()[offsets]
        rows = np.empty((len(pages), PAGE), np.uint8)
        targets = rows.ctypes.data + np.arange(len(pages)) * PAGE
        self._private.read(offsets * PAGE, np.full(len(pages), PAGE), targets)
        return rows

    def spots(self, addresses: Sequence[int], size: int) -> Callable[[], Bytes]:
        """Return a function that reads ``size`` bytes at each of ``addresses``: n times size, used again.

        For who looks a thousand times a second, at pages that the guest has written. Raises
        HarnessError when not all of it is RAM; the function does when the machine has ended.
        """
        offsets = np.array([self._layout.offset(address, size) for address in addresses], np.int64)
        rows = np.empty((len(offsets), size), np.uint8)
        private = self._private
        if private is None:
            octets, places = self._map().reshape(-1), offsets[:, None] + np.arange(size)

            def shared() -> Bytes:
                self._descriptor()
                rows[:] = octets[places]
                return rows

            return shared
        targets = rows.ctypes.data + np.arange(len(offsets)) * size
        sizes = np.full(len(offsets), size)

        def own() -> Bytes:
            private.read(offsets, sizes, targets)
            return rows

        return own

    def template(self) -> Ram:
        """Return the memory as it was at the fork. Raises HarnessError when the machine is no fork."""
        if self._private is None:
            raise HarnessError("the machine is no fork: it has no template to compare with")
        return Ram(self._file, self._layout)

    def same_template(self, other: Ram) -> bool:
        """Say whether pages that neither has written are the same bytes."""
        return os.path.sameopenfile(self._descriptor(), other._descriptor())

    def _descriptor(self) -> int:
        if self._file.closed:
            raise HarnessError("the machine is gone, and its memory with it")
        return self._file.fileno()

    def _file_data(self) -> npt.NDArray[np.bool_]:
        """Say of each of the file's pages whether it is more than a hole."""
        if self._template_data is not None:
            return self._template_data
        file = self._descriptor()
        result = np.zeros(self._layout.pages, np.bool_)
        position = 0
        while True:
            try:
                position = os.lseek(file, position, os.SEEK_DATA)
                end = os.lseek(file, position, os.SEEK_HOLE)
            except OSError as error:
                if error.errno == errno.ENXIO:
                    break
                raise
            result[position // PAGE : -(-end // PAGE)] = True
            position = end
        if self._private is not None:
            # Nothing but zeros can be added to a template.
            self._template_data = result
        return result

    def _fill(self, offset: int, target: Bytes) -> None:
        """Read from ``offset`` in the file, joined with what is private."""
        # The file first: a page that is written meanwhile is found below.
        self._pread(offset, target)
        if self._private is None:
            return
        first, end = offset // PAGE, offset + target.size
        starts, lengths = runs(self._private.pages(first, -(-end // PAGE) - first))
        begins = np.maximum(starts * PAGE, offset)
        sizes = np.minimum((starts + lengths) * PAGE, end) - begins
        self._private.read(begins, sizes, begins - offset + target.ctypes.data)

    def _gather(self, pages: Pages, source: Bytes, rows: Bytes) -> None:
        """Read each of ``pages`` from its ``source`` into one of ``rows``."""
        # A run ends where pages are missing, and where another source begins.
        cuts = np.flatnonzero((np.diff(pages) != 1) | (source[1:] != source[:-1])) + 1
        starts = np.concatenate(([0], cuts))
        ends = np.concatenate((cuts, [len(pages)]))
        file = self._map()
        for start, end in zip(starts.tolist(), ends.tolist(), strict=True):
            if source[start] == _DATA:
                rows[start:end] = file[pages[start] : pages[end - 1] + 1]
            elif source[start] == _HOLE:
                rows[start:end] = 0
        mine = source[starts] == _OWN
        if self._private is not None and mine.any():
            first = starts[mine]
            sizes = (ends[mine] - first) * PAGE
            self._private.read(pages[first] * PAGE, sizes, first * PAGE + rows.ctypes.data)

    def _map(self) -> Bytes:
        """Return the file as an array of pages: three times faster than pread(2), but it fills holes."""
        file = self._descriptor()
        if self._mapped is None:
            mapping = mmap.mmap(file, self._layout.pages * PAGE, prot=mmap.PROT_READ)
            self._mapped = np.frombuffer(mapping, np.uint8).reshape(-1, PAGE)
        return self._mapped

    def _pread(self, offset: int, target: Bytes) -> None:
        if os.preadv(self._descriptor(), [target.data], offset) != target.nbytes:
            raise HarnessError("the file of the guest's memory is shorter than that memory")


def ram_of(machine: Machine) -> Ram:
    """Return the reader of a machine that runs or is paused.

    Raises HarnessError when it has ended, or this process may not look into QEMU's.
    """
    file = os.fstat(machine.ram.fileno()) if not machine.ram.closed else None
    if file is None:
        raise HarnessError("the machine is gone, and its memory with it")
    layout = read_layout(machine.qmp)
    address, private = find_mapping(machine.pid, file)
    pages = PrivatePages(machine.pid, address, file.st_size) if private else None
    return Ram(machine.ram, layout, pages)
