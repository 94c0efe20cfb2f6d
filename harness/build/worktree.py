# SPDX-License-Identifier: MIT
"""The tree that is built: pristine source, hard-linked, with a series on top.

Each definition has one such tree, at a path that stays, with the build folder inside: then every
path in a compiler call is relative (``..``), and both make and ccache find what was compiled
before. A new tree takes over the build folder and the times of files that did not change.
"""

from __future__ import annotations

import filecmp
import os
import shutil
import stat
import subprocess
from pathlib import Path

import msgspec

from harness.build import diff
from harness.build.series import Series
from harness.build.source import Source
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
    touched: list[str]
    report: list[diff.HunkReport]


def prepare(
    source: Source, series: Series, folder: Path, progress: Progress
) -> tuple[Path, list[diff.HunkReport]]:
    """Make ``folder``/linux the source with the series applied; return it and the report.

    Call with the build lock held. Neither the source nor an earlier tree is harmed when this
    fails. Raises HarnessError naming the patch, file and hunk that does not apply.
    """
    tree = folder / "linux"
    old = _stamp(tree)
    if old is not None and (old.source, old.series) == (source.digest, series.digest):
        return tree, old.report
    folder.mkdir(parents=True, exist_ok=True)
    with progress.step("Tree") as step:
        scratch = folder / "patched"
        new = _patch(source, series, scratch, step)
        if old is not None and old.source == source.digest:
            # Without a stamp, what a kill leaves here is made anew.
            (tree / STAMP).unlink()
            for name in {*old.touched, *new.touched}:
                _put((scratch if name in new.touched else source.tree) / name, tree / name)
            (tree / STAMP).write_bytes(msgspec.json.encode(new))
        else:
            _make(source, new, scratch, tree, step)
        remove(scratch)
        step.done(summary(series, new.report))
    return tree, new.report


def _patch(source: Source, series: Series, scratch: Path, step: Step) -> Stamp:
    """Apply a series to copies, in ``scratch``, of just the files that it touches."""
    diffs = [file for patch in series.patches for file in diff.parse(patch.text, patch.name)]
    touched = sorted({name for file in diffs for name in (file.old, file.new) if name is not None})
    remove(scratch)
    scratch.mkdir()
    for name in touched:
        (scratch / name).parent.mkdir(parents=True, exist_ok=True)
        if os.path.lexists(source.tree / name):
            shutil.copy2(source.tree / name, scratch / name, follow_symlinks=False)
    report: list[diff.HunkReport] = []
    for patch in series.patches:
        step.update(f"applying {patch.subject}")
        report += diff.apply(patch.text, patch.name, scratch)
        _refuse_rejects(report, patch.subject, source)
    return Stamp(source.digest, series.digest, touched, report)


def _make(source: Source, stamp: Stamp, scratch: Path, tree: Path, step: Step) -> None:
    """Make a tree of links to the source with the patched files in it, in place of an earlier one."""
    new = tree.with_name(f"{tree.name}.new")
    remove(new)
    step.update("linking the source")
    result = subprocess.run(
        ["cp", "-al", "--", str(source.tree), str(new)], capture_output=True, text=True, check=False
    )
    if result.returncode != 0:
        raise HarnessError(
            f"cannot make the tree {new}", details=result.stderr[-500:], advice="check the disk"
        )
    for name in stamp.touched:
        _put(scratch / name, new / name)
    (new / STAMP).write_bytes(msgspec.json.encode(stamp))
    if tree.exists():
        step.update("comparing with the earlier tree")
        _inherit(tree, new)
        remove(tree)
    new.rename(tree)


def _put(wanted: Path, file: Path) -> None:
    """Make ``file`` what ``wanted`` is. One that is so already keeps its time; links are broken."""
    if not os.path.lexists(wanted):
        file.unlink(missing_ok=True)
        return
    if _same(wanted, file):
        return
    file.parent.mkdir(parents=True, exist_ok=True)
    temporary = file.with_name(f"{file.name}.mkharness")
    temporary.unlink(missing_ok=True)
    shutil.copy2(wanted, temporary, follow_symlinks=False)
    os.utime(temporary, follow_symlinks=False)
    temporary.rename(file)


def summary(series: Series, report: list[diff.HunkReport]) -> str:
    """Say in one line how a series applied."""
    if not series.patches:
        return "no patches"
    moved = sum(1 for hunk in report if hunk.outcome == "offset")
    return f"{len(series.patches)} patches, {len(report)} hunks, {moved} of them moved"


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


def _refuse_rejects(report: list[diff.HunkReport], subject: str, source: Source) -> None:
    rejected = [hunk for hunk in report if hunk.outcome == "rejected"]
    if rejected:
        first = rejected[0]
        more = f" and {len(rejected) - 1} more" if len(rejected) > 1 else ""
        where = f"{first.file}, hunk {first.hunk}{more}"
        raise HarnessError(
            f"patch {first.patch} ({subject}) does not apply to {source.version}: {where}",
            details="\n".join(f"{hunk.file}, hunk {hunk.hunk} {hunk.why}" for hunk in rejected[:5]),
            advice="choose the base that the series was made for with --base, or bring the patch up to date",
        )


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
