# SPDX-License-Identifier: MIT
"""Memory that is freed goes back to the computer.

Page maps and windows of guests' memory come as arrays of megabytes, and each console has a thread. The C
library keeps what such threads freed for them, and large pieces, too, once one has been freed: a third of
what a process of the suite took. And a machine that is over lies in cycles of references, half a MiB, until
Python has a quarter more of everything. Source: mallopt(3), malloc_trim(3), Python's gc.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc

_MMAP_THRESHOLD, _ARENA_MAX = -3, -8
LARGE = 256 << 10
"""Bytes from which on a piece has a mapping of its own, which ends with it."""
ARENAS = 2
"""How many heaps the threads share."""
_library = ctypes.CDLL(None)


def give_back() -> None:
    """Have this process keep little of what it frees, from now on; does nothing without glibc."""
    with contextlib.suppress(AttributeError):
        _library.mallopt(_MMAP_THRESHOLD, LARGE)
        _library.mallopt(_ARENA_MAX, ARENAS)
    # What there is until now stays: `tidy` need not look at it.
    gc.collect()
    gc.freeze()


def tidy() -> None:
    """Give back what nobody uses any more: some milliseconds."""
    gc.collect()
    with contextlib.suppress(AttributeError):
        _library.malloc_trim(0)
