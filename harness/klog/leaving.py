# SPDX-License-Identifier: MIT
"""What a kernel says while it stops its CPUs one by one, and is no complaint.

A CPU that was stopped counts as offline at once, while another that is not yet wakes its tasks, calls it,
or adds up counters without its share. Mainline's own race, see KEXEC-01 in docs/findings.md.
"""

from __future__ import annotations

import re

LOOK_BACK = 1 << 16
"""Bytes before a message in which the kernel must have said that it ends."""
_LAST_WORDS = re.compile(
    r"WARNING: .*\b(?:set_task_cpu|native_smp_send_reschedule)\+0x|BUG: Bad rss-counter state"
)
_ENDS_OR_BEGINS = re.compile(
    rb"(?P<ends>reboot: (?:System halted|Power down|Restarting system|machine restart)|sysrq: Resetting"
    rb"|kexec_core: Starting new kernel)|\] Linux version "
)


def last_words(line: str, before: bytes) -> bool:
    """Whether a splat's telling line is one of those, and ``before`` on the console the kernel said it ends.

    ``before`` is needed up to LOOK_BACK bytes back.
    """
    if not _LAST_WORDS.search(line):
        return False
    said = [match["ends"] for match in _ENDS_OR_BEGINS.finditer(before)]
    return bool(said) and said[-1] is not None
