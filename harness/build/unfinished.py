# SPDX-License-Identifier: MIT
"""What a killed make leaves: files that are cut short and look finished to the next make.

A mark stands in the build folder while programs write there. When it is found, everything written
since it was made goes; what is older was complete, and need not be compiled again.
"""

from __future__ import annotations

import os
import time
from pathlib import Path

from harness.build.make import UNFINISHED

MARK = UNFINISHED

COARSE = 1_000_000_000
"""Nanoseconds by which a file's time may be behind the clock."""


def begin(folder: Path) -> None:
    """Put the mark, before anything is written. Whoever finishes removes it."""
    mark = folder / MARK
    mark.write_text(str(time.time_ns()))
    with mark.open() as file:
        os.fsync(file.fileno())


def discard(folder: Path, keep: str = "") -> int:
    """Remove what was written since the mark that a kill left; return how many files went.
    A file called ``keep`` stays.

    Safe to kill: the mark goes last.
    """
    mark = folder / MARK
    try:
        text = mark.read_text()
        since = int(text) if text else mark.stat().st_mtime_ns
    except FileNotFoundError:
        return 0
    except ValueError:
        since = 0
    if since > time.time_ns():
        # The clock was set back, so times tell nothing.
        since = 0
    gone = 0
    for at, _, names in os.walk(folder):
        for name in names:
            path = os.path.join(at, name)
            if os.lstat(path).st_mtime_ns >= since - COARSE and path != str(mark) and name != keep:
                os.unlink(path)
                gone += 1
    mark.unlink()
    return gone
