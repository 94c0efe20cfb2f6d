# SPDX-License-Identifier: MIT
"""Folders of the cache that a process uses are not removed while it lives, however it ends.

Who uses a folder shares a lock on it; who wants to remove it needs the lock alone.
"""

from __future__ import annotations

import fcntl
import os
import shutil
from pathlib import Path

OLD = ".old"
"""Ends the name of a folder that is being removed."""

_held: dict[int, int] = {}
"""The folders that this process holds: inode and open file."""


def hold(folder: Path) -> bool:
    """Keep a folder, under any name, until this process ends; return False when it is gone."""
    fd = _locked(folder, fcntl.LOCK_SH)
    if fd is None:
        return False
    if _held.setdefault(os.fstat(fd).st_ino, fd) != fd:
        os.close(fd)
    return True


def remove(folder: Path) -> bool:
    """Remove a folder unless a process, this one too, holds it; return whether it is gone."""
    fd = _locked(folder, fcntl.LOCK_EX)
    if fd is None:
        return not folder.exists()
    try:
        old = folder.with_name(f"{folder.name}{OLD}")
        shutil.rmtree(old, ignore_errors=True)
        folder.rename(old)
        shutil.rmtree(old, ignore_errors=True)
    finally:
        os.close(fd)
    return True


def is_held(folder: Path) -> bool:
    """Say whether some process holds a folder now."""
    fd = _locked(folder, fcntl.LOCK_EX)
    if fd is None:
        return folder.exists()
    os.close(fd)
    return False


def _locked(folder: Path, how: int) -> int | None:
    try:
        fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        fcntl.flock(fd, how | fcntl.LOCK_NB)
        # It may have been removed, or made again, before the lock was ours.
        if folder.stat().st_ino == os.fstat(fd).st_ino:
            return fd
    except OSError:
        pass
    os.close(fd)
    return None
