# SPDX-License-Identifier: MIT
"""Pages that nobody has a reason to write to, held by a process in a guest, watched from outside.

``mkctl canary`` makes them. They are found by what is in them, never by asking the guest.
"""

from __future__ import annotations

import numpy as np

from harness.vm.ram import Ram
from harness.vm.ram_pages import Pages

MARK = 0x7972_6E61_636B_6D21
"""The first word of each page; its complement follows. Source: initramfs/mkctl/canary.c."""


def find_canaries(ram: Ram) -> Pages:
    """Return the canaries' pages; looks at everything that was touched."""
    found = [np.empty(0, np.int64)]
    for pages, rows in ram.chunks():
        words = rows.view(np.uint64)
        found.append(pages[(words[:, 0] == np.uint64(MARK)) & (words[:, 1] == ~np.uint64(MARK))])
    return np.concatenate(found)
