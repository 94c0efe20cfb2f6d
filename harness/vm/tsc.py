# SPDX-License-Identifier: MIT
"""How fast the time stamp counter runs, for guests that cannot measure it.

A guest sees the computer's own counter, and measures its rate against an emulated timer. On a busy
computer that timer comes late, and the rate is wrong by as much as 25 times; every time-out in that
guest is wrong by as much, and so it is in all forks of it. So guests are told (tsc_early_khz=). Each
CPU but the first measures once more how many counts a tick has, for udelay(): one of less than 50 ms in
place of 700 was seen. That is told, too (lpj=).
"""

from __future__ import annotations

import ctypes
import functools
import mmap
import os
import time
from pathlib import Path
from typing import Any

from harness import paths

CODE = b"\x0f\x31\x48\xc1\xe2\x20\x48\x09\xd0\xc3"
"""rdtsc; shl $32, %rdx; or %rdx, %rax; ret."""
STRETCH = 0.02
"""Seconds between two looks at the counter."""


def tsc_arguments(hz: int | None = None) -> tuple[str, ...]:
    """Return what tells a Linux the counter's rate, and keeps it from comparing that with slower timers.

    ``hz`` is how many ticks its second has; without it, its CPUs measure for udelay() themselves.
    """
    delay = () if hz is None else (f"lpj={tsc_khz() * 1000 // hz}",)
    return (f"tsc_early_khz={tsc_khz()}", "tsc=nowatchdog", *delay)


@functools.cache
def tsc_khz() -> int:
    """Return the counter's rate in kHz, in whole MHz.

    It is measured once for each boot of the computer, and kept in the cache: it stands on command
    lines, and these name stages.
    """
    boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    file = paths.cache() / f"tsc-{boot}"
    if not file.exists():
        file.parent.mkdir(parents=True, exist_ok=True)
        temporary = file.with_suffix(f".{os.getpid()}")
        temporary.write_text(str(round(_measure() / 1e6) * 1000), encoding="ascii")
        try:
            # The first one stands, for all processes.
            os.link(temporary, file)
        except FileExistsError:
            pass
        finally:
            temporary.unlink()
    return int(file.read_text(encoding="ascii"))


def _measure() -> float:
    """Return the counter's rate in Hz: the median of some looks, each as undisturbed as can be."""
    page = mmap.mmap(-1, mmap.PAGESIZE, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
    page.write(CODE)
    address = ctypes.addressof(ctypes.c_char.from_buffer(page))
    read = ctypes.CFUNCTYPE(ctypes.c_uint64)(address)
    rates = []
    for _ in range(7):
        first, began = _pair(read)
        time.sleep(STRETCH)
        last, ended = _pair(read)
        rates.append((last - first) / (ended - began))
    return sorted(rates)[len(rates) // 2]


def _pair(read: Any) -> tuple[int, float]:
    """Return the counter and the time, taken in the shortest of some tries."""
    best = (float("inf"), 0, 0.0)
    for _ in range(20):
        before = time.perf_counter()
        count = read()
        after = time.perf_counter()
        best = min(best, (after - before, count, (before + after) / 2))
    return best[1], best[2]
