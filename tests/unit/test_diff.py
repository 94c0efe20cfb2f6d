# SPDX-License-Identifier: MIT
"""Patches apply strictly, and what does not fit is shown beside what the file has."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.build import diff
from harness.errors import HarnessError

LINES = [f"line {number}" for number in range(1, 41)]


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    top = tmp_path / "tree"
    (top / "kernel").mkdir(parents=True)
    (top / "kernel/a.c").write_text("\n".join(LINES) + "\n")
    return top


def change(number: int, *, at: int | None = None, was: str | None = None) -> str:
    """A hunk that changes line ``number``, claiming to start at line ``at``."""
    start = at if at is not None else number - 1
    before, old, after = LINES[number - 2 : number + 1]
    return f"@@ -{start},3 +{start},3 @@ func\n {before}\n-{was or old}\n+changed {number}\n {after}\n"


def patch(*hunks: str, name: str = "kernel/a.c") -> bytes:
    return (f"Prose.\n---\n--- a/{name}\n+++ b/{name}\n" + "".join(hunks)).encode()


def outcomes(text: bytes, tree: Path) -> list[tuple[str, int]]:
    return [(hunk.outcome, hunk.offset) for hunk in diff.apply(text, "x.patch", tree)]


def test_clean_and_moved_hunks_are_told_apart(tree):
    assert outcomes(patch(change(5), change(20, at=16)), tree) == [("clean", 0), ("offset", 3)]
    assert "changed 5\n" in (tree / "kernel/a.c").read_text()
    assert "changed 20\n" in (tree / "kernel/a.c").read_text()


def test_rejected_hunk_shows_both_sides(tree):
    hunks = diff.apply(patch(change(5), change(20, was="line twenty")), "x.patch", tree)
    assert [hunk.outcome for hunk in hunks] == ["clean", "rejected"]
    assert "- line 20" in hunks[1].why
    assert "+ line twenty" in hunks[1].why
    assert "closest lines at 19" in hunks[1].why


def test_context_must_match_exactly(tree):
    text = patch(change(10)).replace(b" line 9\n", b" line nine\n")
    assert outcomes(text, tree) == [("rejected", 0)]


def test_applied_already_is_a_rejection_not_a_reversal(tree):
    assert outcomes(patch(change(5)), tree) == [("clean", 0)]
    assert outcomes(patch(change(5)), tree) == [("rejected", 0)]
    assert "changed 5\n" in (tree / "kernel/a.c").read_text()


def test_missing_file_is_named(tree):
    (hunk,) = diff.apply(patch(change(5), name="kernel/b.c"), "x.patch", tree)
    assert hunk.outcome == "rejected"
    assert hunk.file == "kernel/b.c"
    assert "no such file" in hunk.why


NEW = "diff --git a/new.c b/new.c\nnew file mode 100644\nindex 0000000..1111111\n--- /dev/null\n+++ b/new.c\n"
GONE = "diff --git a/kernel/a.c b/kernel/a.c\ndeleted file mode 100644\n--- a/kernel/a.c\n+++ /dev/null\n"


def test_files_come_and_go(tree):
    content = "".join(f"-{line}\n" for line in LINES)
    text = f"{NEW}@@ -0,0 +1 @@\n+hello\n{GONE}@@ -1,40 +0,0 @@\n{content}".encode()
    assert outcomes(text, tree) == [("clean", 0), ("clean", 0)]
    assert (tree / "new.c").read_text() == "hello\n"
    assert not (tree / "kernel/a.c").exists()


def test_new_file_that_exists_is_rejected_and_kept(tree):
    (tree / "new.c").write_text("mine\n")
    (hunk,) = diff.apply(f"{NEW}@@ -0,0 +1 @@\n+hello\n".encode(), "x.patch", tree)
    assert hunk.outcome == "rejected"
    assert "exists already" in hunk.why
    assert (tree / "new.c").read_text() == "mine\n"


def test_rename_without_a_hunk(tree):
    text = b"diff --git a/kernel/a.c b/kernel/b.c\nsimilarity index 100%\n"
    text += b"rename from kernel/a.c\nrename to kernel/b.c\n"
    assert outcomes(text, tree) == []
    assert (tree / "kernel/b.c").exists()


def test_one_file_changed_twice_in_one_patch(tree):
    assert outcomes(patch(change(5, at=2)) + patch(change(30)), tree) == [("offset", 2), ("clean", 0)]


@pytest.mark.parametrize("name", ["../outside.c", "kernel/../../outside.c"])
def test_path_out_of_the_tree_is_refused(tree, name):
    with pytest.raises(HarnessError, match="outside"):
        diff.apply(patch("@@ -0,0 +1 @@\n+x\n", name=name), "x.patch", tree)


def test_truncated_hunk_is_refused(tree):
    with pytest.raises(HarnessError, match=r"x\.patch.*damaged"):
        diff.apply(patch(change(5))[:-20], "x.patch", tree)


def test_mailer_that_strips_blanks_of_empty_lines(tree):
    (tree / "kernel/a.c").write_text("one\n\ntwo\n")
    text = patch("@@ -1,3 +1,3 @@\n one\n\n-two\n+TWO\n")
    assert outcomes(text, tree) == [("clean", 0)]
