# SPDX-License-Identifier: MIT
"""A revision of a git repository becomes a folder, and the repository stays as it was."""

from __future__ import annotations

import io
import os
import subprocess
from pathlib import Path

import pytest
from rich.console import Console

from harness.build import source
from harness.definition import GitBase
from harness.errors import HarnessError, UsageError
from harness.progress import Progress

MAKEFILE = "VERSION = 7\nPATCHLEVEL = 3\nSUBLEVEL = 4\nEXTRAVERSION =\n"


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MKHARNESS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(source, "NEEDED_SPACE", 1_000_000)
    return tmp_path / "cache"


@pytest.fixture
def progress() -> Progress:
    return Progress(Console(file=io.StringIO()))


class Repository:
    """A small repository whose commits are made by ``commit``."""

    def __init__(self, top: Path) -> None:
        self.top = top
        top.mkdir()
        self.git("init", "-q", "-b", "main")
        self.first = self.commit({"Kbuild": "", "Makefile": MAKEFILE, "init/main.c": "one\n", "a/b/c": "x\n"})

    def git(self, *words: str) -> str:
        command = ["git", "-c", "user.name=a", "-c", "user.email=a@example.org", *words]
        return subprocess.run(
            command, cwd=self.top, check=True, capture_output=True, text=True
        ).stdout.strip()

    def commit(self, files: dict[str, str]) -> str:
        for name, text in files.items():
            (self.top / name).parent.mkdir(parents=True, exist_ok=True)
            (self.top / name).write_text(text)
        self.git("add", "-A")
        self.git("commit", "-qm", "x")
        return self.git("rev-parse", "HEAD")


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    return Repository(tmp_path / "linux")


def listing(top: Path) -> dict[str, tuple[int, bytes]]:
    return {
        str(path.relative_to(top)): (path.stat().st_mtime_ns, path.read_bytes())
        for path in top.rglob("*")
        if path.is_file()
    }


def test_revision_is_exported_and_the_checkout_is_untouched(repository, progress):
    repository.commit({"init/main.c": "two\n"})
    (repository.top / "init/main.c").write_text("not committed\n")
    os.utime(repository.top / "Makefile")
    before = listing(repository.top)
    found = source.obtain([source.parse_base(f"{repository.top}@HEAD~1")], progress)
    assert (found.tree / "init/main.c").read_text() == "one\n"
    assert not (found.tree / ".git").exists()
    assert repository.first[:12] in found.version
    assert found.tree.name.endswith(repository.git("rev-parse", "HEAD~1^{tree}")[:12])
    source.obtain([source.parse_base(str(repository.top))], progress)
    assert listing(repository.top) == before


def test_branch_that_moved_gives_another_source_that_shares_what_did_not_change(repository, progress):
    base = GitBase(str(repository.top), "main")
    first = source.obtain([base], progress)
    repository.git("rm", "-q", "a/b/c")
    repository.commit({"init/main.c": "two\n", "new [x]*": "n\n", "a/b": "a file where a folder was\n"})
    second = source.obtain([base], progress)
    assert first.digest != second.digest
    assert (first.tree / "init/main.c").read_text() == "one\n"
    assert {name: text for name, (_, text) in listing(second.tree).items()} == {
        "Kbuild": b"", "Makefile": MAKEFILE.encode(), "init/main.c": b"two\n", "new [x]*": b"n\n",
        "a/b": b"a file where a folder was\n",
    }  # fmt: skip
    assert (second.tree / "Makefile").samefile(first.tree / "Makefile")


def test_same_tree_is_the_same_source_whatever_the_commit(repository, progress):
    first = source.obtain([GitBase(str(repository.top), "main")], progress)
    repository.git("commit", "-q", "--allow-empty", "-m", "y")
    assert source.obtain([GitBase(str(repository.top), "main")], progress).digest == first.digest


def test_repository_far_away_is_fetched_once_and_again_when_asked(repository, progress, tmp_path):
    url = f"file://{repository.top}"
    base = source.parse_base(f"{url}@main")
    assert base == GitBase(url, "main")
    first = source.obtain([base], progress)
    second = repository.commit({"init/main.c": "two\n"})
    repository.top.rename(tmp_path / "gone")
    assert source.obtain([base], progress) == first
    (tmp_path / "gone").rename(repository.top)
    newer = source.obtain([base], progress, refresh=True)
    assert second[:12] in newer.version
    assert (newer.tree / "init/main.c").read_text() == "two\n"


def test_killed_fetch_does_not_block_the_next(repository, progress, cache):
    base = GitBase(f"file://{repository.top}", "main")
    source.obtain([base], progress)
    (clone,) = (cache / "git").glob("*.git")
    (clone / "shallow.lock").touch()
    repository.commit({"init/main.c": "two\n"})
    assert source.obtain([base], progress, refresh=True).version.startswith("main of linux")


def test_no_network_is_a_clear_error(progress):
    # Nothing listens on port 9 of this computer.
    with pytest.raises(HarnessError) as caught:
        source.obtain([GitBase("git://127.0.0.1:9/linux", "v7.3")], progress)
    assert "cannot fetch v7.3 from git://127.0.0.1:9/linux" in str(caught.value)
    assert "check the network" in str(caught.value)


def test_revision_that_is_not_there_is_named(repository, progress, tmp_path):
    with pytest.raises(HarnessError, match="has no revision v9") as caught:
        source.obtain([GitBase(str(repository.top), "v9")], progress)
    assert "git log" in caught.value.advice
    subprocess.run(
        ["git", "clone", "-q", "--depth=1", f"file://{repository.top}", tmp_path / "s"], check=True
    )
    with pytest.raises(HarnessError) as caught:
        source.obtain([GitBase(str(tmp_path / "s"), "HEAD~1")], progress)
    assert "unshallow" in caught.value.advice


def test_shallow_and_partial_clones_and_bare_ones_will_do(repository, progress, tmp_path):
    repository.git("config", "uploadpack.allowFilter", "true")
    for number, options in enumerate((["--depth=1"], ["--filter=blob:none", "--no-checkout"], ["--bare"])):
        clone = tmp_path / f"clone{number}"
        subprocess.run(["git", "clone", "-q", *options, f"file://{repository.top}", clone], check=True)
        found = source.obtain([source.parse_base(f"git:{clone}")], progress)
        assert (found.tree / "init/main.c").read_text() == "one\n"


def test_a_hooks_environment_does_not_lead_elsewhere(repository, progress, tmp_path, monkeypatch):
    other = Repository(tmp_path / "other")
    other.commit({"init/main.c": "other\n"})
    monkeypatch.setenv("GIT_DIR", str(other.top / ".git"))
    found = source.obtain([GitBase(str(repository.top), "HEAD")], progress)
    assert (found.tree / "init/main.c").read_text() == "one\n"


def test_filters_of_the_user_change_nothing(repository, progress, tmp_path, monkeypatch):
    repository.commit({".gitattributes": "* text=auto\n*.bin filter=lfs\n", "x.bin": "pointer\n"})
    config = tmp_path / "gitconfig"
    config.write_text('[core]\nautocrlf = true\n[filter "lfs"]\nsmudge = false\nrequired = true\n')
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", str(config))
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / ".gitconfig").write_text(config.read_text())
    found = source.obtain([GitBase(str(repository.top), "HEAD")], progress)
    assert (found.tree / "init/main.c").read_bytes() == b"one\n"
    assert (found.tree / "x.bin").read_bytes() == b"pointer\n"


def test_what_base_may_be(repository, tmp_path):
    top = str(repository.top)
    assert source.parse_base(f"git:{top}") == GitBase(top, "HEAD")
    assert source.parse_base(f"{top}@v6.12-rc1") == GitBase(top, "v6.12-rc1")
    assert source.parse_base(f"{top}@main@{{1}}") == GitBase(top, "main@{1}")
    url = "https://git.example.org/linux.git"
    assert source.parse_base(f"{url}@v7.3") == GitBase(url, "v7.3")
    assert source.parse_base("git@example.org:linux.git@main") == GitBase("git@example.org:linux.git", "main")
    assert source.parse_base("git@example.org:linux.git") == GitBase("git@example.org:linux.git", "HEAD")
    assert source.parse_base("ssh://git@h/x.git") == GitBase("ssh://git@h/x.git", "HEAD")
    assert source.parse_base("ssh://git@h/x.git@r/v1") == GitBase("ssh://git@h/x.git", "r/v1")
    for text in (f"{top}@-x", f"git:{tmp_path}", "git:", "git:--upload-pack=x@y", f"{top}@a b"):
        with pytest.raises(UsageError, match="neither"):
            source.parse_base(text)
