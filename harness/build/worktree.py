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
import subprocess
from pathlib import Path

import msgspec

from harness.build import diff
from harness.build.inputs import digest_of
from harness.build.series import Series
from harness.build.source import Source
from harness.errors import HarnessError
from harness.progress import Progress

OUTPUT = "mkharness-build"
"""The build folder's name inside the tree."""

STAMP = "mkharness-tree"


def prepare(
    source: Source, series: Series, folder: Path, progress: Progress
) -> tuple[Path, list[diff.HunkReport]]:
    """Make ``folder``/linux the source with the series applied; return it and the report.

    Call with the build lock held. Neither the source nor an earlier tree is harmed when this
    fails. Raises HarnessError naming the patch, file and hunk that does not apply.
    """
    tree = folder / "linux"
    stamp = digest_of(source.digest, series.digest)
    kept = _kept_report(tree, stamp)
    if kept is not None:
        return tree, kept
    new = folder / "linux.new"
    remove(new)
    folder.mkdir(parents=True, exist_ok=True)
    with progress.step("Tree") as step:
        step.update("linking the source")
        _link(source.tree, new)
        report: list[diff.HunkReport] = []
        for patch in series.patches:
            step.update(f"applying {patch.subject}")
            report += diff.apply(patch.text, patch.name, new)
            _refuse_rejects(report, patch.subject, source)
        step.done(summary(series, report))
    (new / STAMP).write_bytes(msgspec.json.encode({"stamp": stamp, "report": report}))
    if tree.exists():
        _inherit(tree, new)
        remove(tree)
    new.rename(tree)
    return tree, report


def summary(series: Series, report: list[diff.HunkReport]) -> str:
    """Say in one line how a series applied."""
    if not series.patches:
        return "no patches"
    moved = sum(1 for hunk in report if hunk.outcome == "offset")
    return f"{len(series.patches)} patches, {len(report)} hunks, {moved} of them moved"


def remove(tree: Path) -> None:
    """Remove a tree; faster than shutil for 90,000 files."""
    subprocess.run(["rm", "-rf", "--", str(tree)], check=True)


def _link(source: Path, new: Path) -> None:
    command = ["cp", "-al", "--", str(source), str(new)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode != 0:
        raise HarnessError(
            f"cannot make the tree {new}", details=result.stderr[-500:], advice="check the disk"
        )


def _kept_report(tree: Path, stamp: str) -> list[diff.HunkReport] | None:
    """Return the report of a tree that is already what is wanted."""

    class Stamp(msgspec.Struct):
        stamp: str
        report: list[diff.HunkReport]

    try:
        kept = msgspec.json.decode((tree / STAMP).read_bytes(), type=Stamp)
    except (OSError, msgspec.DecodeError):
        return None
    return kept.report if kept.stamp == stamp else None


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
            if there and not os.path.islink(other) and filecmp.cmp(mine, other, shallow=False):
                os.unlink(mine)
                os.link(other, mine)
            else:
                shutil.copy2(mine, mine + ".mkharness")
                os.utime(mine + ".mkharness")
                os.rename(mine + ".mkharness", mine)
    if (old / OUTPUT).exists():
        (old / OUTPUT).rename(new / OUTPUT)
