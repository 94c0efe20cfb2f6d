# SPDX-License-Identifier: MIT
"""What tasks of a kernel that still answers wait for, and which locks are held, as it tells itself."""

from __future__ import annotations

import re
import time
from collections.abc import Sequence

from harness.diagnose.life import Life
from harness.errors import HarnessError
from harness.klog.lines import read_line
from harness.lab import Lab

LIMIT = 1.0
"""Seconds that a kernel has for its list, before scaling by the accelerator."""
QUIET = 0.3
LINES = 60
_NOTHING = re.compile(r"^(?:sysrq: |Showing all locks|=+$|\s*$|locks held|\S* ?sysrq)")


def blocked(lab: Lab, known: Sequence[Life]) -> str:
    """Have each kernel that answers list its blocked tasks and held locks on its console; return that."""
    told: list[str] = []
    none: list[str] = []
    for life in known:
        if not life.answers:
            continue
        console, channel = lab.machine.console(life.kernel), lab.machine.channel(life.kernel)
        mark = console.mark
        with console.expected(".", required=False):
            try:
                # `d` needs lockdep, and says only so without it.
                keys = (
                    "echo 1 >/proc/sys/kernel/sysrq; for key in w d; do echo $key >/proc/sysrq-trigger; done"
                )
                channel.run(keys, timeout=LIMIT, watch=False)
            except HarnessError as error:
                told.append(f"{life.kernel} does not say: {error.what}")
                continue
            give_up = time.monotonic() + LIMIT * lab.accel.factor
            end = -1
            while end != console.mark and time.monotonic() < give_up:
                end = console.mark
                time.sleep(QUIET)
        text = console.transcript[mark:].decode("utf-8", "replace")
        lines = [read_line(0, line.encode()).body for line in text.splitlines()]
        shown = [line for line in lines if not _NOTHING.match(line)]
        if shown:
            told.append("\n".join([f"{life.kernel}:", *shown[:LINES]]))
        else:
            none.append(life.kernel)
    return "\n".join([*told, *([f"none in {' and '.join(none)}"] if none else [])])
