# SPDX-License-Identifier: MIT
"""Guest memory as a file without a name, so that nothing is left of it when its users are gone.

Only the memory of a frozen machine gets a name.
"""

from __future__ import annotations

import errno
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
                file = _unnamed(folder)
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


def name_ram(ram: BinaryIO, path: Path) -> None:
    """Give a guest's memory the name ``path``, on the file system that it is on."""
    try:
        # With a folder's descriptor os.link() follows the link that /proc shows.
        os.link(f"/proc/self/fd/{ram.fileno()}", path, src_dir_fd=ram.fileno(), follow_symlinks=True)
    except OSError:
        # The file was made in the old way, on a file system that does not know O_TMPFILE.
        path.touch(0o600, exist_ok=False)
        with path.open("wb") as named:
            copy_sparse(ram, named)


def copy_sparse(source: BinaryIO, target: BinaryIO) -> None:
    """Copy what is not a hole of ``source`` into the empty file ``target``, at the same places."""
    size = os.fstat(source.fileno()).st_size
    os.truncate(target.fileno(), size)
    position = 0
    while position < size:
        try:
            position = os.lseek(source.fileno(), position, os.SEEK_DATA)
        except OSError as error:
            if error.errno == errno.ENXIO:
                return
            raise
        end = os.lseek(source.fileno(), position, os.SEEK_HOLE)
        os.lseek(target.fileno(), position, os.SEEK_SET)
        while position < end:
            position += os.sendfile(target.fileno(), source.fileno(), position, end - position)


def in_use(path: Path) -> int:
    """Return how many bytes a file or a folder's files occupy; holes count nothing."""
    files = path.iterdir() if path.is_dir() else [path]
    return sum(file.stat().st_blocks for file in files) * 512


def _unnamed(folder: Path) -> BinaryIO:
    """Open a new file without a name that ``name_ram`` can name later."""
    try:
        return os.fdopen(os.open(folder, os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o600), "w+b")
    except OSError as error:
        if error.errno not in {errno.EOPNOTSUPP, errno.EISDIR, errno.ENOENT}:
            raise
        return tempfile.TemporaryFile(dir=folder)
