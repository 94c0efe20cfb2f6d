# SPDX-License-Identifier: MIT
"""The tree that is built is never the pristine one, and keeps what did not change."""

from __future__ import annotations

import io
import os
import time
from pathlib import Path

import pytest
from rich.console import Console

from harness.build import series, worktree
from harness.build.apply import apply_series
from harness.build.source import Source
from harness.progress import Progress

FILES = {"Kbuild": "", "Makefile": "VERSION = 7\n", "a.c": "one\ntwo\nthree\n", "b.c": "b\n"}
OLD = 1_500_000_000


@pytest.fixture
def progress() -> Progress:
    return Progress(Console(file=io.StringIO()))


@pytest.fixture
def source(tmp_path: Path) -> Source:
    tree = tmp_path / "pristine"
    tree.mkdir()
    for name, text in FILES.items():
        (tree / name).write_text(text)
        os.utime(tree / name, (OLD, OLD))
    return Source("path", "test source", "digest", tree)


def one_patch(was: str, becomes: str, name: str = "a.c") -> series.Series:
    text = f"--- a/{name}\n+++ b/{name}\n@@ -1,3 +1,3 @@\n one\n-{was}\n+{becomes}\n three\n"
    return series.Series(None, (series.Patch("1.patch", "subject", text.encode()),))


def prepare(source: Source, wanted: series.Series, folder: Path, progress: Progress) -> Path:
    return worktree.prepare(apply_series(source, wanted), folder, progress)


def state(tree: Path) -> dict[str, tuple[str, int, int]]:
    return {
        p.name: (p.read_text(), p.stat().st_mtime_ns, p.stat().st_ino) for p in tree.iterdir() if p.is_file()
    }


def test_pristine_source_is_never_modified(source, progress, tmp_path):
    before = state(source.tree)
    tree = prepare(source, one_patch("two", "TWO"), tmp_path / "work", progress)
    assert (tree / "a.c").read_text() == "one\nTWO\nthree\n"
    assert state(source.tree) == before
    assert (tree / "b.c").samefile(source.tree / "b.c")


def test_same_series_again_is_the_same_tree(source, progress, tmp_path):
    first = prepare(source, one_patch("two", "TWO"), tmp_path, progress)
    inode = first.stat().st_ino
    again = prepare(source, one_patch("two", "TWO"), tmp_path, progress)
    assert again.stat().st_ino == inode


def test_build_folder_and_times_survive_a_change(source, progress, tmp_path):
    two = series.Series(None, one_patch("two", "TWO").patches + one_patch("three", "x", "c.c").patches)
    (source.tree / "c.c").write_text("one\nthree\nthree\n")
    tree = prepare(source, two, tmp_path, progress)
    (tree / worktree.OUTPUT).mkdir()
    (tree / worktree.OUTPUT / "a.o").touch()
    old = time.time() - 1000
    for name in ("a.c", "c.c"):
        os.utime(tree / name, (old, old))
    changed = series.Series(None, one_patch("two", "ZWEI").patches + two.patches[1:])
    tree = prepare(source, changed, tmp_path, progress)
    assert (tree / worktree.OUTPUT / "a.o").exists()
    assert (tree / "a.c").stat().st_mtime > old + 900, "a changed file must be compiled again"
    assert (tree / "c.c").stat().st_mtime == pytest.approx(old), "an unchanged one must not"
    assert (tree / "b.c").stat().st_mtime == OLD


def test_file_that_reverts_to_the_pristine_one_counts_as_changed(source, progress, tmp_path):
    prepare(source, one_patch("two", "TWO"), tmp_path, progress)
    before = state(source.tree)
    tree = prepare(source, series.EMPTY, tmp_path, progress)
    assert (tree / "a.c").read_text() == FILES["a.c"]
    assert (tree / "a.c").stat().st_mtime > OLD + 1000
    assert state(source.tree) == before


NEW_FILE = "--- /dev/null\n+++ b/new/n.c\n@@ -0,0 +1 @@\n+new\n"
NEW_MODE = "diff --git a/b.c b/b.c\nold mode 100644\nnew mode 100755\n"


def test_file_of_an_earlier_series_goes_and_of_a_new_one_comes(source, progress, tmp_path):
    adding = series.Series(None, (series.Patch("n.patch", "n", NEW_FILE.encode()),))
    tree = prepare(source, adding, tmp_path, progress)
    inode = tree.stat().st_ino
    assert (tree / "new/n.c").read_text() == "new\n"
    prepare(source, one_patch("two", "TWO"), tmp_path, progress)
    assert not (tree / "new/n.c").exists()
    assert (tree / "a.c").read_text() == "one\nTWO\nthree\n"
    prepare(source, adding, tmp_path, progress)
    assert (tree / "new/n.c").exists()
    assert (tree / "a.c").read_text() == FILES["a.c"]
    assert tree.stat().st_ino == inode, "the same source needs no new tree"


def test_changed_mode_is_not_that_of_the_pristine_file(source, progress, tmp_path):
    script = series.Series(None, (series.Patch("m.patch", "m", NEW_MODE.encode()),))
    for wanted, mode in ((script, 0o755), (series.EMPTY, 0o644), (script, 0o755)):
        tree = prepare(source, wanted, tmp_path, progress)
        assert (tree / "b.c").stat().st_mode & 0o777 == mode
        assert (source.tree / "b.c").stat().st_mode & 0o777 == 0o644


def test_tree_changed_half_way_by_a_killed_run_is_made_anew(source, progress, tmp_path):
    tree = prepare(source, one_patch("two", "TWO"), tmp_path, progress)
    (tree / worktree.OUTPUT).mkdir()
    (tree / worktree.STAMP).unlink()
    (tree / "a.c").write_text("half")
    (tree / "left-over.c").touch()
    tree = prepare(source, one_patch("two", "TWO"), tmp_path, progress)
    assert (tree / "a.c").read_text() == "one\nTWO\nthree\n"
    assert not (tree / "left-over.c").exists()
    assert (tree / worktree.OUTPUT).exists()


def test_other_source_keeps_the_build_folder_and_touches_what_differs(source, progress, tmp_path):
    tree = prepare(source, series.EMPTY, tmp_path, progress)
    (tree / worktree.OUTPUT).mkdir()
    other = tmp_path / "other"
    other.mkdir()
    for name, text in {**FILES, "b.c": "older, and other\n"}.items():
        (other / name).write_text(text)
        os.utime(other / name, (OLD - 100, OLD - 100))
    tree = prepare(Source("path", "o", "other", other), series.EMPTY, tmp_path, progress)
    assert (tree / worktree.OUTPUT).exists()
    assert (tree / "a.c").stat().st_mtime == OLD, "same content, so nothing to compile"
    assert (tree / "b.c").stat().st_mtime > OLD + 1000, "its own time would make it look compiled"
    assert (other / "b.c").stat().st_mtime == OLD - 100


def test_half_made_tree_of_a_killed_run_is_not_used(source, progress, tmp_path):
    (tmp_path / "linux.new").mkdir()
    (tmp_path / "linux.new/junk").touch()
    tree = prepare(source, series.EMPTY, tmp_path, progress)
    assert not (tree / "junk").exists()
