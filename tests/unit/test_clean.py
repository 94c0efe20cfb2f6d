# SPDX-License-Identifier: MIT
"""What may go from the cache goes, oldest first; what is in use or named stays."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import time
from pathlib import Path

import msgspec
import pytest
from rich.console import Console

from harness import paths
from harness.build import clean, inuse, source, store
from harness.definition import TarballBase
from harness.errors import UsageError
from harness.progress import Progress

DAY = clean.DAY


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    kernels = tmp_path / "kernels"
    kernels.mkdir()
    monkeypatch.setattr(paths, "KERNELS", kernels)
    monkeypatch.setenv("MKHARNESS_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def progress() -> Progress:
    return Progress(Console(file=io.StringIO()))


def entry(name: str, age: float, size: int = 0, tree: str = "") -> Path:
    """Put a build into the store without holding it, used ``age`` days ago."""
    folder = store.folder() / name
    folder.mkdir(parents=True)
    for file in store.FILES:
        (folder / file).write_bytes(b"")
    (folder / "vmlinux").write_bytes(os.urandom(size))
    meta = store.Meta(definition="mini", source="x", source_tree=tree)
    (folder / "meta.json").write_bytes(msgspec.json.encode(meta))
    os.utime(folder, (time.time() - age * DAY,) * 2)
    return folder


def names() -> list[str]:
    return sorted(path.name for path in store.folder().iterdir())


HOLD = "import sys, pathlib; from harness.build import inuse\n"
HOLD += "print(inuse.hold(pathlib.Path(sys.argv[1])), flush=True); sys.stdin.read()"


class Holder:
    """Another process that uses a folder."""

    def __init__(self, folder: Path) -> None:
        self.child = subprocess.Popen(
            [sys.executable, "-c", HOLD, folder], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        assert self.child.stdout is not None
        assert self.child.stdout.readline() == b"True\n"

    def kill(self) -> None:
        self.child.kill()
        self.child.wait()


def test_old_builds_go_and_young_ones_stay(progress):
    entry("old", 31), entry("young", 29)
    dry = clean.gc(30, 1 << 40, progress, dry_run=True)
    assert names() == ["old", "young"]
    assert clean.gc(30, 1 << 40, progress, dry_run=False) == dry
    assert [item.folder.name for item in dry] == ["old"]
    assert names() == ["young"]


def test_what_another_process_uses_stays_until_that_is_killed(progress):
    held = Holder(entry("old", 31))
    assert clean.gc(30, 0, progress, dry_run=True) == []
    assert clean.gc(30, 0, progress, dry_run=False) == []
    held.kill()
    assert len(clean.gc(30, 0, progress, dry_run=False)) == 1
    assert names() == []


def test_size_limit_takes_those_used_longest_ago(progress, monkeypatch):
    for name, age in (("c", 1), ("a", 3), ("b", 2)):
        entry(name, age, 100_000)
    monkeypatch.setenv(clean.LIMIT, "250K")
    clean.keep_limit(progress)
    assert names() == ["b", "c"]
    assert "removed 1 old build" in progress.console.file.getvalue()
    held = Holder(store.folder() / "b")
    monkeypatch.setenv(clean.LIMIT, "1K")
    clean.keep_limit(progress)
    held.kill()
    assert names() == ["b"]


def test_a_build_that_is_found_counts_as_used(progress):
    entry("a", 40), entry("b", 35)
    assert store.find("a") is not None
    assert [path.name for path in store.entries()] == ["b", "a"]


def test_sources_go_when_no_definition_and_no_build_names_them(cache, progress):
    sources = cache / "sources"
    for tree in ("by-definition", "by-build", "by-old-build", "by-nothing"):
        (sources / tree).mkdir(parents=True)
        for file in ("Kbuild", "Makefile"):
            (sources / tree / file).touch()
    sha = "0" * 64
    record = {"kind": "tarball", "version": "x", "digest": "x", "tree": "by-definition"}
    source.record_of(TarballBase("x.tar", sha)).write_bytes(msgspec.json.encode(record))
    (paths.KERNELS / "mine.toml").write_text(
        'summary = "x"\ndialect = "v1"\nconfigs = ["base"]\ntopology = "pair"\n'
        f'[[bases]]\nkind = "tarball"\nurl = "x.tar"\nsha256 = "{sha}"\n'
    )
    entry("young", 1, tree="by-build"), entry("old", 99, tree="by-old-build")
    gone = {item.folder.name for item in clean.gc(30, 1 << 40, progress, dry_run=False)}
    assert gone == {"old", "by-old-build", "by-nothing"}
    assert sorted(path.name for path in sources.iterdir() if path.is_dir()) == ["by-build", "by-definition"]


def test_a_source_in_use_stays(cache, progress):
    (cache / "sources/mine").mkdir(parents=True)
    held = Holder(cache / "sources/mine")
    assert clean.gc(30, 1 << 40, progress, dry_run=False) == []
    held.kill()
    assert (cache / "sources/mine").exists()


def test_left_overs_of_kills_go_and_what_is_being_made_stays(cache, progress):
    for folder in ("store/a.new", "store/b.old", "sources/c.new", "sources/d.new"):
        (cache / folder).mkdir(parents=True)
    held = Holder(cache / "sources/d.new")
    gone = {item.folder.name for item in clean.gc(30, 1 << 40, progress, dry_run=False)}
    held.kill()
    assert gone == {"a.new", "b.old", "c.new"}


def test_work_trees_go_by_the_last_build(cache, progress):
    for name, age in (("old", 40), ("young", 1)):
        (cache / "work" / name / "linux").mkdir(parents=True)
        (cache / "work" / name / "build.log").touch()
        for path in (
            cache / "work" / name / "build.log",
            cache / "work" / name / "linux",
            cache / "work" / name,
        ):
            os.utime(path, (time.time() - age * DAY,) * 2)
    gone = {item.folder.name for item in clean.gc(30, 1 << 40, progress, dry_run=False)}
    assert gone == {"old"}
    assert [path.name for path in (cache / "work").iterdir()] == ["young"]


def test_holding_what_is_gone_says_so(tmp_path):
    assert not inuse.hold(tmp_path / "nothing")
    (tmp_path / "folder").mkdir()
    assert inuse.remove(tmp_path / "folder")
    assert not (tmp_path / "folder").exists()


@pytest.mark.parametrize(
    ("text", "size"), [("10G", 10 << 30), ("500m", 500 << 20), ("1.5KiB", 1536), ("7", 7)]
)
def test_sizes(text, size):
    assert clean.parse_size(text, "x") == size


@pytest.mark.parametrize("text", ["", "-1G", "10X", "G", "nan", "1e9", "10GG", "9" * 99])
def test_what_is_no_size_is_refused(text):
    with pytest.raises(UsageError, match=clean.LIMIT):
        clean.parse_size(text, clean.LIMIT)
