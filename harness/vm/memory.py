# SPDX-License-Identifier: MIT
"""Guest memory as a file without a name, so that nothing is left of it when its users are gone."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO

from harness import paths
from harness.errors import HarnessError

SHM = Path("/dev/shm")
MARGIN = 16 << 20
"""Bytes that stay free beside the guest's memory."""


def open_ram(size: int, folders: Sequence[Path] | None = None) -> BinaryIO:
    """Make an empty file of ``size`` bytes in the first of ``folders`` that has room for all of it.

    By default that is the memory file system /dev/shm, else the cache folder on disk. The guest's
    pages take room only when they are touched, so room is checked now and not reserved. Raises
    HarnessError when no folder has it.
    """
    tried = []
    for folder in folders if folders is not None else (SHM, paths.cache()):
        try:
            folder.mkdir(parents=True, exist_ok=True)
            free = room(folder)
            if free >= size + MARGIN:
                file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115
                os.truncate(file.fileno(), size)
                return file
            tried.append(f"{folder}: {free >> 20} MiB free")
        except OSError as error:
            tried.append(f"{folder}: {error.strerror}")
    raise HarnessError(
        f"there is no room for {size >> 20} MiB of guest memory",
        details="\n".join(tried),
        advice="make room in one of them, or set MKHARNESS_CACHE to a folder on a larger disk",
    )


def room(folder: Path) -> int:
    """Return how many bytes can still be written in ``folder``."""
    state = os.statvfs(folder)
    return state.f_bavail * state.f_frsize
