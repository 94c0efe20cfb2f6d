# SPDX-License-Identifier: MIT
"""Builds under the digest of everything that went into them.

An entry appears under its name only when complete, and is never written again; so a kill leaves
nothing behind but a folder ending in ``.new``. Its time is when it was used last. A process that
found an entry holds it: it is not removed before that process ends.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import msgspec
from filelock import FileLock, Timeout

from harness import paths
from harness.build import inuse
from harness.build.inputs import digest_of
from harness.progress import Progress

FILES = ("bzImage", "vmlinux", "config", "initrd.cpio", "host-initrd.cpio", "warnings.json", "meta.json")
"""What every complete entry holds; build.log is there for people."""
REPORT = "apply-report.json"
WARNINGS = "warnings.json"
DEFCONFIG = "defconfig"
"""The configuration as far as it differs from its tree's defaults; entries made earlier have none."""


class Meta(msgspec.Struct, frozen=True):
    """What is known of an entry: from what it was made (``inputs``, by name), when (``created``, seconds
    since 1970), in how many ``seconds``; ``source_tree`` is its source's folder in the cache.
    """

    definition: str
    source: str
    release: str = ""
    source_tree: str = ""
    series: str = ""
    patches: int = 0
    created: float = 0.0
    seconds: float = 0.0
    inputs: dict[str, str] = {}
    spawned_release: str = ""
    """The spawned kernel's release, where that is of another build."""


def digest(inputs: Mapping[str, str]) -> str:
    """Return the digest of named inputs, which is the entry's name."""
    return digest_of(*(f"{name}={value}" for name, value in sorted(inputs.items())))


def write_meta(entry: Path, meta: Meta, release: str) -> None:
    """Write what is known of an entry that is being made, and how long that took."""
    complete = msgspec.structs.replace(meta, release=release, seconds=round(time.time() - meta.created, 1))
    (entry / "meta.json").write_bytes(msgspec.json.encode(complete))


def read_meta(entry: Path) -> Meta:
    """Read what is known of an entry."""
    return msgspec.json.decode((entry / "meta.json").read_bytes(), type=Meta)


def folder() -> Path:
    """Return the folder of all builds."""
    return paths.cache() / "store"


def find(digest: str) -> Path | None:
    """Return the complete entry of a digest, which this process then holds, or None."""
    entry = folder() / digest
    if not inuse.hold(entry) or not all((entry / name).is_file() for name in FILES):
        return None
    os.utime(entry)
    return entry


def entries() -> list[Path]:
    """Return all complete entries, those used last at the end."""
    found = [entry for entry in folder().glob("*") if all((entry / name).is_file() for name in FILES)]
    return sorted(
        (entry for entry in found if "." not in entry.name), key=lambda entry: entry.stat().st_mtime
    )


@contextmanager
def adding(digest: str) -> Iterator[Path]:
    """Yield an empty folder to fill; it becomes the digest's entry when the block ends well.

    Call with the build lock held. An incomplete entry, damaged from outside, is replaced.
    """
    entry = folder() / digest
    temporary = entry.with_name(f"{digest}.new")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    inuse.hold(temporary)
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
