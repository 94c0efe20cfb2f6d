# SPDX-License-Identifier: MIT
"""Builds under the digest of everything that went into them.

An entry appears under its name only when complete, and is never written again; so a reader needs
no lock, and a kill leaves nothing behind but a folder ending in ``.new``.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from harness import paths
from harness.progress import Progress

FILES = ("bzImage", "vmlinux", "config", "initrd.cpio", "host-initrd.cpio", "meta.json")
"""What every complete entry holds; apply-report.json and build.log are there for people."""


def folder() -> Path:
    """Return the folder of all builds."""
    return paths.cache() / "store"


def find(digest: str) -> Path | None:
    """Return the complete entry of a digest, or None."""
    entry = folder() / digest
    return entry if all((entry / name).is_file() for name in FILES) else None


@contextmanager
def adding(digest: str) -> Iterator[Path]:
    """Yield an empty folder to fill; it becomes the digest's entry when the block ends well.

    Call with the build lock held. An incomplete entry, damaged from outside, is replaced.
    """
    entry = folder() / digest
    temporary = entry.with_name(f"{digest}.new")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    try:
        yield temporary
        shutil.rmtree(entry, ignore_errors=True)
        temporary.rename(entry)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


@contextmanager
def build_lock(progress: Progress) -> Iterator[None]:
    """Hold the lock that lets one kernel be built at a time on this computer.

    Two at once would each take twice as long, and parallel test workers all want the same one.
    """
    paths.cache().mkdir(parents=True, exist_ok=True)
    lock = FileLock(paths.cache() / "build.lock")
    try:
        lock.acquire(timeout=0.1)
    except Timeout:
        with progress.step("Waiting for another build on this computer"):
            lock.acquire()
    try:
        yield
    finally:
        lock.release()
