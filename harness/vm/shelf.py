# SPDX-License-Identifier: MIT
"""Where stages are kept: under their digests, shared by all processes of a user.

They are in memory (/dev/shm), or on disk where that is too small. What was not used for the longest
time is thrown out when room is short.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path

from filelock import FileLock, Timeout

from harness import paths
from harness.errors import HarnessError
from harness.vm import memory, snapshot
from harness.vm.snapshot import Stage

LIMIT = 2 << 30
"""Bytes that the stages in one folder may occupy: what is in /dev/shm is missing elsewhere."""
NEW, OLD = ".new", ".old"


class Shelf:
    """The stages of this user, in the first of ``roots`` that has room."""

    def __init__(self, roots: Sequence[Path] | None = None, limit: int = LIMIT) -> None:
        self.roots = tuple(roots or _own_roots())
        self.limit = limit

    def find(self, digest: str) -> Stage | None:
        """Return the stage of a digest, or None; it counts as used now."""
        for root in self.roots:
            stage = snapshot.read(root / digest) if _ours(root) else None
            if stage is not None:
                # Another process may have thrown it out by now.
                with contextlib.suppress(FileNotFoundError):
                    os.utime(stage.folder)
                    return stage
        return None

    def obtain(self, digest: str, size: int, make: Callable[[Path], None]) -> Stage:
        """Return the stage of a digest; when there is none, one process calls ``make`` to make it.

        ``make`` gets an empty folder to freeze a machine into, whose memory of ``size`` bytes should
        be in that folder's parent. Raises what ``make`` raises, and HarnessError when there is no room.
        """
        found = self.find(digest)
        if found is not None:
            return found
        with self._lock(digest):
            found = self.find(digest)
            if found is None:
                folder = self._room_for(size) / f"{digest}{NEW}"
                shutil.rmtree(folder, ignore_errors=True)
                folder.mkdir()
                try:
                    make(folder)
                    # One that is there all the same was damaged from outside.
                    shutil.rmtree(folder.with_name(digest), ignore_errors=True)
                    folder.rename(folder.with_name(digest))
                finally:
                    shutil.rmtree(folder, ignore_errors=True)
                found = self.find(digest)
        assert found is not None, f"the stage {digest} was made and is not there"
        return found

    def remove(self, digest: str) -> bool:
        """Remove a stage that nobody uses; return whether that was so."""
        return all([_remove(root / digest) for root in self.roots if (root / digest).exists()])

    def _lock(self, digest: str) -> FileLock:
        # Locks cannot be removed safely; so there are sixteen, whatever is made.
        self.roots[-1].mkdir(mode=0o700, parents=True, exist_ok=True)
        return FileLock(self.roots[-1] / f"{digest[0]}.lock")

    def _room_for(self, size: int) -> Path:
        """Return the first root with room for ``size`` bytes, after throwing out what is oldest."""
        tried = []
        for root in self.roots:
            try:
                root.mkdir(mode=0o700, parents=True, exist_ok=True)
            except OSError as error:
                tried.append(f"{root}: {error.strerror}")
                continue
            if not _ours(root):
                tried.append(f"{root}: belongs to somebody else")
                continue
            self._tidy(root, size + memory.MARGIN)
            free = memory.room(root)
            if free >= size + memory.MARGIN:
                return root
            tried.append(f"{root}: {free >> 20} MiB free")
        raise HarnessError(
            f"there is no room for a frozen machine with {size >> 20} MiB of memory",
            details="\n".join(tried),
            advice="make room in one of them, or set MKHARNESS_CACHE to a folder on a larger disk",
        )

    def _tidy(self, root: Path, wanted: int) -> None:
        """Remove what killed processes left, and the least recently used stages while room is short."""
        stages = []
        for folder in root.iterdir():
            if folder.suffix == OLD:
                shutil.rmtree(folder, ignore_errors=True)
            elif folder.suffix == NEW:
                self._remove_left_over(folder)
            elif folder.is_dir():
                # Other processes tidy, too.
                with contextlib.suppress(FileNotFoundError):
                    stages.append((folder.stat().st_mtime, memory.in_use(folder), folder))
        occupied = sum(size for _, size, _ in stages)
        for _, size, folder in sorted(stages):
            if memory.room(root) >= wanted and occupied <= self.limit:
                return
            if _remove(folder):
                occupied -= size

    def _remove_left_over(self, folder: Path) -> None:
        """Remove a stage that was never finished, unless somebody makes it now."""
        try:
            with self._lock(folder.stem).acquire(timeout=0):
                shutil.rmtree(folder, ignore_errors=True)
        except Timeout:
            pass


def _own_roots() -> tuple[Path, Path]:
    """Return where this user's stages are: with each cache others, since their locks are in there."""
    cache = paths.cache()
    elsewhere = f"-{zlib.crc32(bytes(cache)):08x}" if "MKHARNESS_CACHE" in os.environ else ""
    return memory.SHM / f"mkharness-{os.getuid()}{elsewhere}", cache / "stages"


def _ours(root: Path) -> bool:
    """Say whether a folder is there and nobody else can write in it."""
    try:
        state = root.stat()
    except OSError:
        return False
    return state.st_uid == os.getuid() and not state.st_mode & 0o022


def _remove(folder: Path) -> bool:
    """Remove a stage unless it is in use."""
    with snapshot.holding(folder, alone=True) as held:
        if held:
            old = folder.with_name(f"{folder.name}{OLD}")
            folder.rename(old)
            shutil.rmtree(old, ignore_errors=True)
        return held
