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
_NOTHING = re.compile(r"^(?:sysrq: |Showing all locks|=+$|\s*$|\S* ?sysrq)")
_HOLDER = re.compile(r"^(?:\d+ )?locks? held by ")
_LOCK = re.compile(r"^ *#\d+: ")
_ASKING = "__handle_sysrq"
"""The function that takes a lock of the task that asks for the list."""


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
        shown = telling([read_line(0, line.encode()).body for line in text.splitlines()])
        if shown:
            told.append("\n".join([f"{life.kernel}:", *shown[:LINES]]))
        else:
            none.append(life.kernel)
    return "\n".join([*told, *([f"none in {' and '.join(none)}"] if none else [])])


def telling(lines: Sequence[str]) -> list[str]:
    """Return the lines that name blocked tasks and held locks, without those of the task that asked."""
    kept: list[list[str]] = []
    for line in lines:
        if _NOTHING.match(line):
            continue
        if _LOCK.match(line) and kept and _HOLDER.match(kept[-1][0]):
            kept[-1].append(line)
        else:
            kept.append([line])
    return [line for group in kept if _ASKING not in "".join(group) for line in group]
