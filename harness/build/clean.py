# SPDX-License-Identifier: MIT
"""What may go from the cache: old builds, sources that nothing names, work trees, left-overs of kills.

What a process uses stays. All that goes can be made again.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from harness import paths
from harness.build import inuse, source, store, worktree
from harness.definition import load_definition
from harness.errors import UsageError
from harness.progress import Progress

LIMIT = "MKHARNESS_STORE_LIMIT"
DEFAULT_LIMIT = "10G"
"""What all builds may take together; one takes 20 to 60 MB."""
DAY = 86400.0


@dataclass(frozen=True)
class Item:
    """One thing that may go, with the reason; ``size`` in bytes."""

    kind: Literal["build", "source", "work tree", "left over", "frozen machine"]
    folder: Path
    size: int
    why: str


def limit() -> int:
    """Return how many bytes all builds may take: ``$MKHARNESS_STORE_LIMIT``, or 10 GB."""
    return parse_size(os.environ.get(LIMIT) or DEFAULT_LIMIT, LIMIT)


def parse_size(text: str, what: str) -> int:
    """Read a size like ``500M`` or ``1.5G``. Raises UsageError, naming ``what``, when it is none."""
    parts = re.fullmatch(r"(\d{1,15}(?:\.\d{1,3})?)([KMGT]?)(?:i?B)?", text.strip(), re.IGNORECASE)
    if parts is None:
        raise UsageError(f"{what}: {text!r} is no size", advice="write a number and K, M, G or T, like 500M")
    return int(float(parts[1]) * 1024 ** " KMGT".index(parts[2].upper() or " "))


def keep_limit(progress: Progress) -> None:
    """Remove the builds used longest ago while all together take more than the limit.

    Call with the build lock held. A build that is in use, as the newest is, stays.
    """
    gone = [item for item in _over(limit(), set()) if inuse.remove(item.folder)]
    if gone:
        size = sum(item.size for item in gone) / 1e6
        progress.console.print(
            f"  removed {len(gone)} old builds, {size:,.0f} MB, to keep {LIMIT}", markup=False
        )


def gc(keep_days: float, size: int, progress: Progress, *, dry_run: bool) -> list[Item]:
    """Remove builds and work trees not used for ``keep_days``, builds beyond ``size`` bytes, sources
    that no definition and no build names, and what killed runs left; return what went, or would go.
    """
    if dry_run:
        return [item for item in _candidates(keep_days, size) if not inuse.is_held(item.folder)]
    with store.build_lock(progress):
        return [item for item in _candidates(keep_days, size) if _removed(item)]


def _removed(item: Item) -> bool:
    if item.kind != "work tree":
        return inuse.remove(item.folder)
    # Nobody builds while the build lock is held.
    worktree.remove(item.folder)
    return True


def _candidates(keep_days: float, size: int) -> Iterator[Item]:
    before = time.time() - keep_days * DAY
    going: set[Path] = set()
    for entry in store.entries():
        if entry.stat().st_mtime < before:
            going.add(entry)
            yield Item("build", entry, size_of(entry), f"not used for {keep_days:g} days")
    over = list(_over(size, going))
    going |= {item.folder for item in over}
    yield from over
    named = _named_sources(going)
    for tree in _folders(paths.cache() / "sources"):
        if tree not in named:
            yield Item("source", tree, size_of(tree), "no definition and no build names it")
    for work in _folders(paths.cache() / "work"):
        if max(path.stat().st_mtime for path in (work, *work.iterdir())) < before:
            yield Item("work tree", work, size_of(work), f"not used for {keep_days:g} days")
    for parent in ("store", "sources"):
        for ending in (".new", inuse.OLD):
            for folder in (paths.cache() / parent).glob(f"*{ending}"):
                if folder.is_dir():
                    yield Item("left over", folder, size_of(folder), "a run was killed")


def _over(size: int, going: set[Path]) -> Iterator[Item]:
    """Name the builds used longest ago as long as all but those ``going`` take more than ``size``."""
    sizes = {entry: size_of(entry) for entry in store.entries() if entry not in going}
    total = sum(sizes.values())
    for entry, taken in sizes.items():
        if total <= size:
            return
        if not inuse.is_held(entry):
            total -= taken
            yield Item("build", entry, taken, f"all builds take more than {size / 1e9:.1f} GB")


def _named_sources(going: set[Path]) -> set[Path]:
    """Return the sources that a definition of this checkout names, or a build that stays."""
    # Lists of known bugs stand beside the definitions, and a definition's name may have a dot.
    names = {file.stem for file in paths.KERNELS.glob("*.toml") if not file.stem.endswith(".known")}
    bases = [base for name in sorted(names) for base in load_definition(name).bases]
    obtained = [source.recorded(base) for base in bases]
    sources = paths.cache() / "sources"
    stay = [store.read_meta(entry).source_tree for entry in store.entries() if entry not in going]
    return {found.tree for found in obtained if found} | {sources / name for name in stay if name}


def _folders(parent: Path) -> list[Path]:
    endings = (".new", inuse.OLD)
    return sorted(path for path in parent.glob("*") if path.is_dir() and not path.name.endswith(endings))


def size_of(folder: Path) -> int:
    """Return the bytes that a folder takes on the disk, hard links within counted once."""
    seen = {}
    for at, _, names in os.walk(folder):
        for name in names:
            status = os.lstat(os.path.join(at, name))
            seen[status.st_ino] = status.st_blocks * 512
    return sum(seen.values())
