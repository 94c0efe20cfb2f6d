# SPDX-License-Identifier: MIT
"""The tree that is built: pristine source, hard-linked, with a series on top.

Each definition has one such tree, at a path that stays, with the build folder inside: then every
path in a compiler call is relative (``..``), and both make and ccache find what was compiled
before. A new tree takes over the build folder and the times of files that did not change.
"""

from __future__ import annotations

import contextlib
import filecmp
import os
import shutil
import stat
import subprocess
from pathlib import Path

import msgspec

from harness.build.apply import Applied, File, read_file
from harness.build.report import summary
from harness.errors import HarnessError
from harness.progress import Progress, Step

OUTPUT = "mkharness-build"
"""The build folder's name inside the tree."""

STAMP = "mkharness-tree"
"""Inside a finished tree; see Stamp."""


class Stamp(msgspec.Struct, frozen=True):
    """What a finished tree holds: which source, which series, the files that the series touches."""

    source: str
    series: str
    fuzz: int
    touched: list[str]


def prepare(applied: Applied, folder: Path, progress: Progress) -> Path:
    """Make ``folder``/linux the source with the series applied, and return it.

    Call with the build lock held, with a series that applies (see apply.refuse). Neither the
    source nor an earlier tree is harmed when this fails.
    """
    tree = folder / "linux"
    source = applied.source
    new = Stamp(source.digest, applied.series.digest, applied.fuzz, sorted(applied.files))
    old = _stamp(tree)
    if old is not None and msgspec.structs.astuple(old)[:3] == msgspec.structs.astuple(new)[:3]:
        return tree
    folder.mkdir(parents=True, exist_ok=True)
    with progress.step("Tree") as step:
        if old is not None and old.source == new.source:
            # Without a stamp, what a kill leaves here is made anew.
            (tree / STAMP).unlink()
            for name in {*old.touched, *new.touched}:
                file = applied.files[name] if name in applied.files else read_file(source.tree, name)
                _put(file, tree / name)
            (tree / STAMP).write_bytes(msgspec.json.encode(new))
        else:
            _make(applied, new, tree, step)
        step.done(summary(applied.report))
    return tree


def _make(applied: Applied, stamp: Stamp, tree: Path, step: Step) -> None:
    """Make a tree of links to the source with the patched files in it, in place of an earlier one."""
    new = tree.with_name(f"{tree.name}.new")
    remove(new)
    step.update("linking the source")
    result = subprocess.run(
        ["cp", "-al", "--", str(applied.source.tree), str(new)], capture_output=True, text=True, check=False
    )
    if result.returncode != 0:
        raise HarnessError(
            f"cannot make the tree {new}", details=result.stderr[-500:], advice="check the disk"
        )
    for name, file in applied.files.items():
        _put(file, new / name)
    (new / STAMP).write_bytes(msgspec.json.encode(stamp))
    if tree.exists():
        step.update("comparing with the earlier tree")
        _inherit(tree, new)
        remove(tree)
    new.rename(tree)


def _put(wanted: File | None, file: Path) -> None:
    """Make ``file`` what is wanted. One that is so already keeps its time; links are broken."""
    if wanted is None:
        file.unlink(missing_ok=True)
        return
    with contextlib.suppress(FileNotFoundError):
        if stat.S_IMODE(file.lstat().st_mode) == wanted.mode and file.read_bytes() == wanted.content:
            return
    file.parent.mkdir(parents=True, exist_ok=True)
    temporary = file.with_name(f"{file.name}.mkharness")
    temporary.unlink(missing_ok=True)
    temporary.write_bytes(wanted.content)
    temporary.chmod(wanted.mode)
    temporary.rename(file)


def remove(tree: Path) -> None:
    """Remove a tree; faster than shutil for 90,000 files."""
    subprocess.run(["rm", "-rf", "--", str(tree)], check=True)


def _same(one: Path, other: Path) -> bool:
    """Say whether two regular files have the same content and mode."""
    try:
        first, second = one.lstat(), other.lstat()
    except FileNotFoundError:
        return False
    return (
        stat.S_ISREG(first.st_mode)
        and (first.st_mode, first.st_size) == (second.st_mode, second.st_size)
        and filecmp.cmp(one, other, shallow=False)
    )


def _stamp(tree: Path) -> Stamp | None:
    try:
        return msgspec.json.decode((tree / STAMP).read_bytes(), type=Stamp)
    except (OSError, msgspec.DecodeError):
        return None


def _inherit(old: Path, new: Path) -> None:
    """Move the build folder over, and keep the times that make goes by true.

    A file whose content is that of the old tree keeps the old one's time; one that changed gets
    the present time, since its own may be older than what was compiled from its predecessor.
    """
    for at, folders, names in os.walk(new):
        if at == str(new):
            folders[:] = [name for name in folders if name != OUTPUT]
        before = str(old) + at[len(str(new)) :]
        for name in names:
            mine, other = os.path.join(at, name), os.path.join(before, name)
            try:
                there = os.lstat(other).st_ino
            except FileNotFoundError:
                there = 0
            if os.lstat(mine).st_ino == there or name == STAMP or os.path.islink(mine):
                continue
            if there and _same(Path(mine), Path(other)):
                os.unlink(mine)
                os.link(other, mine)
            else:
                shutil.copy2(mine, mine + ".mkharness")
                os.utime(mine + ".mkharness")
                os.rename(mine + ".mkharness", mine)
    if (old / OUTPUT).exists():
        (old / OUTPUT).rename(new / OUTPUT)
