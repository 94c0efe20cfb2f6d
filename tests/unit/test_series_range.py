# SPDX-License-Identifier: MIT
"""A range of commits gives its patches in order, whatever git is configured to show, and is only read."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from harness.build import diff, series

IDENTITY = {
    "GIT_AUTHOR_NAME": "A Developer",
    "GIT_AUTHOR_EMAIL": "dev@example.org",
    "GIT_COMMITTER_NAME": "c",
    "GIT_COMMITTER_EMAIL": "c@x",
}


def git(place: Path, *words: str) -> str:
    run = subprocess.run(
        ["git", "-C", str(place), *words],
        check=True,
        capture_output=True,
        text=True,
        env=os.environ | IDENTITY,
    )
    return run.stdout.strip()


@pytest.fixture
def repository(tmp_path):
    """Commits 0 to 3, the last one with a renamed file; 2 is empty. The tree has uncommitted changes."""
    place = tmp_path / "a repository: mine"
    place.mkdir()
    git(place, "init", "-q", "-b", "main")
    for number in range(4):
        (place / "a.c").write_text(
            "".join(f"{line}\n" for line in range(20)) + f"{number // 2 if number else 9}\n"
        )
        if number == 3:
            (place / "a.c").write_text("new\n")
            (place / "b.c").write_text("".join(f"{line}\n" for line in range(20)))
        git(place, "add", ".")
        git(place, "commit", "-q", "--allow-empty", "-m", f"number {number}\n\nbase-commit: 123456789012")
    (place / "a.c").write_text("work in progress\n")
    (place / "untracked.c").write_text("more of it\n")
    return place


def state(place: Path) -> dict[str, tuple[int, bytes]]:
    files = (file for file in sorted(place.rglob("*")) if file.is_file())
    return {str(file): (file.stat().st_mtime_ns, file.read_bytes()) for file in files}


def test_the_commits_of_a_range_are_patches_in_their_order(repository):
    before = state(repository)
    found = series.read(f"{repository}:main~3..main")
    assert [patch.subject for patch in found.patches] == ["number 1", "number 2", "number 3"]
    assert {patch.author for patch in found.patches} == {"A Developer <dev@example.org>"}
    assert found.base_commit == git(repository, "rev-parse", "main~3")
    assert series.read(f"git:{repository}:main~3..main").digest == found.digest
    assert state(repository) == before


def test_a_commit_that_changes_nothing_is_left_out_and_told(repository):
    git(repository, "stash")
    git(repository, "commit", "--allow-empty", "-m", "only words")
    found = series.read(f"{repository}:main~2..main")
    assert [patch.subject for patch in found.patches] == ["number 3"]
    assert [(entry.subject, entry.why) for entry in found.left_out] == [("only words", "changes nothing")]


def test_the_patches_are_those_that_format_patch_makes(repository, tmp_path):
    git(repository, "format-patch", "-q", "-o", str(tmp_path / "out"), "main~3..main")
    given = [[diff.parse(p.text, "") for p in series.read(place).patches] for place in (
        f"{repository}:main~3..main", tmp_path / "out"
    )]  # fmt: skip
    assert given[0] == given[1]


def test_how_git_is_configured_makes_no_difference(repository, monkeypatch):
    place = f"{repository}:main~3..main"
    wanted = series.read(place).digest
    for setting in (
        *("diff.noprefix=true", "diff.context=9", "diff.renames=false", "diff.external=false"),
        *("format.attach=true", "log.showSignature=true", "color.ui=always", "diff.algorithm=patience"),
    ):
        git(repository, "config", *setting.split("="))
    monkeypatch.setenv("GIT_DIR", "/nonexistent")
    monkeypatch.setenv("GIT_EXTERNAL_DIFF", "false")
    assert series.read(place).digest == wanted


def test_a_branch_beside_the_older_revision_starts_where_they_part(repository):
    git(repository, "stash")
    git(repository, "checkout", "-q", "-b", "side", "main~2")
    (repository / "side.c").write_text("x\n")
    git(repository, "add", ".")
    git(repository, "commit", "-q", "-m", "aside")
    found = series.read(f"{repository}:main..side")
    assert [patch.subject for patch in found.patches] == ["aside"]
    assert found.base_commit == git(repository, "rev-parse", "main~2")
    assert any("main is not where the range starts" in note for note in found.notes)
