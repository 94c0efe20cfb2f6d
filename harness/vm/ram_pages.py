# SPDX-License-Identifier: MIT
"""A fork's private pages: where they are in QEMU, which there are, and their bytes.

A fork maps the template's file privately. A page that it has written is an anonymous page of its
own; every other page still is the file's. Source for bits 61 to 63 of a page map's entries:
Documentation/admin-guide/mm/pagemap.rst.
"""

from __future__ import annotations

import ctypes
import os
from pathlib import Path

import numpy as np
import numpy.typing as npt

from harness.errors import HarnessError

PAGE = 4096
"""Bytes of a page; the machine emulated is an x86, and so is the one that emulates."""
IOV_MAX = 1024
"""Pieces that one process_vm_readv(2) takes."""
_FILE, _SWAPPED = 0x20, 0x40
"""Bits 61 and 62 of an entry, in its highest byte; present (63) is above both."""

Pages = npt.NDArray[np.int64]
"""Page numbers in ascending order."""
Bytes = npt.NDArray[np.uint8]

_libc = ctypes.CDLL(None, use_errno=True)


def runs(pages: Pages) -> tuple[Pages, Pages]:
    """Return the first pages and the lengths of the runs of consecutive numbers in ``pages``."""
    if not len(pages):
        return pages, pages
    starts = np.flatnonzero(np.diff(pages, prepend=pages[0] - 2) != 1)
    return pages[starts], np.diff(starts, append=len(pages))


def find_mapping(pid: int, file: os.stat_result) -> tuple[int, bool]:
    """Return the address where process ``pid`` maps the whole of ``file``, and whether privately.

    Raises HarnessError when it does not, has ended, or is not this process's to look at.
    """
    try:
        lines = Path(f"/proc/{pid}/maps").read_text().splitlines()
    except OSError as error:
        raise denied(pid, error) from None
    start = end = 0
    private = False
    for line in lines:
        fields = line.split(maxsplit=5)
        # An inode's number alone: btrfs and overlayfs show another device than stat(2) does.
        if int(fields[4]) != file.st_ino or fields[3] == "00:00":
            continue
        first, last = (int(address, 16) for address in fields[0].split("-"))
        offset = int(fields[2], 16)
        # One mapping that madvise(2) has cut shows as several lines.
        if offset == 0:
            start = end = first
        if first == end and offset == end - start:
            end, private = last, fields[1].endswith("p")
    if not end or end - start < file.st_size:
        raise HarnessError(f"process {pid} does not map its guest's memory")
    return start, private


def denied(pid: int, error: OSError) -> HarnessError:
    """Return the error to raise when another process's memory cannot be accessed."""
    return HarnessError(
        f"the guest's memory in process {pid} cannot be accessed: {error.strerror}",
        advice="ask the process that started QEMU: only that one may (or root)"
        if isinstance(error, PermissionError)
        else "look at the machine's cause of end",
    )


class PrivatePages:
    """``size`` bytes at ``address`` in process ``pid``, a private mapping of a file.

    Pages are numbered from the mapping's first. Every method raises HarnessError when the process
    has ended or may not be looked at.
    """

    def __init__(self, pid: int, address: int, size: int) -> None:
        self._pid = pid
        self._address = address
        self._size = size

    def pages(self, first: int = 0, count: int | None = None) -> Pages:
        """Return which of ``count`` pages from ``first`` on are no longer the file's."""
        count = self._size // PAGE - first if count is None else count
        try:
            # Opened every time: 10 us, and nothing to be closed.
            with open(f"/proc/{self._pid}/pagemap", "rb", buffering=0) as pagemap:
                entries = os.pread(pagemap.fileno(), count * 8, (self._address // PAGE + first) * 8)
        except OSError as error:
            raise denied(self._pid, error) from None
        if len(entries) != count * 8:
            raise HarnessError(f"process {self._pid} has no page map: it has ended")
        state = np.frombuffer(entries, np.uint8)[7::8]
        # Swapped pages of the file (and those being moved) have its bit, too.
        return np.flatnonzero((state >= _SWAPPED) & (state & _FILE == 0)) + first

    def read(self, offsets: Pages, sizes: Pages, targets: Pages) -> None:
        """Copy ``sizes`` bytes from ``offsets`` to the addresses ``targets`` of this process."""
        self._transfer("process_vm_readv", offsets, sizes, targets)

    def write(self, offset: int, data: Bytes) -> None:
        """Copy ``data`` to ``offset``."""
        self._transfer("process_vm_writev", *(np.array([n]) for n in (offset, data.size, data.ctypes.data)))

    def _transfer(self, call: str, offsets: Pages, sizes: Pages, local: Pages) -> None:
        near = np.stack((local, sizes), axis=1).astype(np.uint64)
        far = np.stack((offsets + self._address, sizes), axis=1).astype(np.uint64)
        for first in range(0, len(near), IOV_MAX):
            here, there = near[first : first + IOV_MAX], far[first : first + IOV_MAX]
            # 0 is the flags, which the call does not know any of.
            done = getattr(_libc, call)(
                ctypes.c_int(self._pid),
                ctypes.c_void_p(here.ctypes.data),
                ctypes.c_ulong(len(here)),
                ctypes.c_void_p(there.ctypes.data),
                ctypes.c_ulong(len(there)),
                ctypes.c_ulong(0),
            )
            wanted = int(here[:, 1].sum())
            if ctypes.c_int32(done).value != wanted:
                number = ctypes.get_errno()
                raise denied(self._pid, OSError(number, os.strerror(number)))
