# SPDX-License-Identifier: MIT
"""A series is applied in memory: hunk by hunk told apart, never outside the source, never through links."""

from __future__ import annotations

import os
from pathlib import Path

import msgspec
import pytest

from harness.build import report
from harness.build.apply import Applied, File, apply_series, refuse
from harness.build.series import Patch, Series
from harness.build.source import Source
from harness.errors import HarnessError

LINES = [f"line {number}" for number in range(1, 41)]
TEXT = "\n".join(LINES) + "\n"


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    top = tmp_path / "tree"
    (top / "kernel").mkdir(parents=True)
    (top / "kernel/a.c").write_text(TEXT)
    return top


def change(number: int, *, at: int | None = None, was: str | None = None) -> str:
    """A hunk that changes line ``number``, claiming to start at line ``at``."""
    start = at if at is not None else number - 1
    before, old, after = LINES[number - 2 : number + 1]
    return f"@@ -{start},3 +{start},3 @@\n {before}\n-{was or old}\n+changed {number}\n {after}\n"


def patch(*hunks: str, name: str = "kernel/a.c") -> bytes:
    return (f"Prose.\n---\n--- a/{name}\n+++ b/{name}\n" + "".join(hunks)).encode()


def applied(tree: Path, *texts: bytes | str, fuzz: int = 0) -> Applied:
    raw = [text if isinstance(text, bytes) else text.encode() for text in texts]
    patches = tuple(Patch(f"{n}.patch", f"subject {n}", text) for n, text in enumerate(raw, 1))
    return apply_series(Source("path", "test source", "digest", tree), Series(None, patches), fuzz)


def outcomes(result: Applied) -> list[tuple[str, int, int]]:
    return [(hunk.outcome, hunk.offset, hunk.fuzz) for patch in result.report for hunk in patch.unclean]


def content(result: Applied, name: str = "kernel/a.c") -> str:
    file = result.files[name]
    assert file is not None
    return file.content.decode()


def test_clean_and_moved_hunks_are_told_apart_and_counted(tree):
    result = applied(tree, patch(change(5), change(20, at=16)))
    (told,) = result.report
    assert (told.files, told.hunks) == (["kernel/a.c"], {"clean": 1, "offset": 1})
    assert [(h.hunk, h.outcome, h.offset, h.line) for h in told.unclean] == [(2, "offset", 3, 20)]
    assert content(result) == TEXT.replace("line 5\n", "changed 5\n").replace("line 20\n", "changed 20\n")
    assert report.lines(result.report) == ["  1 subject 1: 1 clean, 1 offset by +3 to +3 lines"]


def test_the_report_is_data_that_can_be_stored(tree):
    told = applied(tree, patch(change(5), change(20, was="x"))).report
    assert msgspec.json.decode(msgspec.json.encode(told), type=list[report.PatchReport]) == told


def test_the_source_is_only_read(tree):
    applied(tree, patch(change(5)))
    assert (tree / "kernel/a.c").read_text() == TEXT
    assert sorted(path.name for path in tree.rglob("*")) == ["a.c", "kernel"]


def test_rejected_hunk_shows_both_sides_and_the_others_are_applied(tree):
    result = applied(tree, patch(change(5), change(20, was="line twenty")))
    assert outcomes(result) == [("rejected", 0, 0)]
    (hunk,) = result.report[0].failed
    assert "closest lines at 19" in hunk.why
    assert "    - line 20\n    + line twenty" in hunk.why
    assert "changed 5" in content(result)


def test_hunk_that_may_not_stand_where_its_lines_are_says_why(tree):
    for text in (patch(change(9), change(5)), patch("@@ -4,2 +4,3 @@\n line 4\n line 5\n+new\n")):
        (hunk,) = applied(tree, text).report[0].failed
        assert "its lines are at 4, but it may not stand there" in hunk.why


def test_refusal_names_everything(tree):
    with pytest.raises(
        HarnessError, match=r"1\.patch \(subject 1\).*test source: kernel/a\.c, hunk 2 and 1 more"
    ) as e:
        refuse(
            applied(
                tree, patch(change(5), change(20, was="x"), change(30, was="y")), patch(change(9, was="z"))
            )
        )
    assert "+ y" in e.value.details
    assert "1 later patches: 2.patch" in e.value.details
    refuse(applied(tree, patch(change(5))))


def test_strict_by_default_and_fuzz_where_asked(tree):
    text = patch(change(10)).replace(b" line 9\n", b" line nine\n")
    assert outcomes(applied(tree, text)) == [("rejected", 0, 0)]
    fuzzy = applied(tree, text, fuzz=1)
    assert outcomes(fuzzy) == [("fuzz", 0, 1)]
    assert content(fuzzy) == TEXT.replace("line 10\n", "changed 10\n")


def test_applied_already_is_a_rejection_not_a_reversal(tree):
    result = applied(tree, patch(change(5)), patch(change(5)))
    assert outcomes(result) == [("rejected", 0, 0)]
    assert "has this change already" in result.report[1].unclean[0].why
    assert "changed 5\n" in content(result)


NEW = "--- /dev/null\n+++ b/{0}\n@@ -0,0 +1 @@\n+hello\n"
GIT = "diff --git a/{0} b/{1}\n"
EMPTY = GIT.format("e", "e") + "new file mode 100644\nindex 000..e69\n"
RENAME = GIT.format("kernel/a.c", "kernel/b.c") + "rename from kernel/a.c\nrename to kernel/b.c\n"
COPY = RENAME.replace("rename", "copy")
MODE = GIT.format("kernel/a.c", "kernel/a.c") + "old mode 100644\nnew mode 100755\n"
GONE = "--- a/kernel/a.c\n+++ /dev/null\n@@ -1,40 +0,0 @@\n" + "".join(f"-{line}\n" for line in LINES)
HELLO = File(b"hello\n", 0o644)
SAME = File(TEXT.encode(), 0o644)
CHANGED = File(TEXT.replace("line 5\n", "changed 5\n").encode(), 0o644)


@pytest.mark.parametrize(
    ("texts", "files"),
    [
        ([NEW.format("new/n.c")], {"new/n.c": HELLO}),
        ([NEW.format("with space/ü.c")], {"with space/ü.c": HELLO}),
        ([NEW.replace("/dev/null", "a/n.c").format("n.c")], {"n.c": HELLO}),
        ([EMPTY], {"e": File(b"", 0o644)}),
        ([EMPTY, NEW.replace("/dev/null", "a/e").format("e")], {"e": HELLO}),
        ([EMPTY, EMPTY.replace("new file", "deleted file")], {"e": None}),
        ([GONE], {"kernel/a.c": None}),
        ([GONE, NEW.format("kernel/a.c")], {"kernel/a.c": HELLO}),
        ([RENAME], {"kernel/a.c": None, "kernel/b.c": SAME}),
        (
            [RENAME.encode() + patch(change(5), name="kernel/b.c")],
            {"kernel/a.c": None, "kernel/b.c": CHANGED},
        ),
        ([RENAME, patch(change(5), name="kernel/b.c")], {"kernel/a.c": None, "kernel/b.c": CHANGED}),
        ([COPY.encode() + patch(change(5), name="kernel/b.c")], {"kernel/a.c": SAME, "kernel/b.c": CHANGED}),
        ([MODE], {"kernel/a.c": File(TEXT.encode(), 0o755)}),
        ([MODE.encode() + patch(change(5))], {"kernel/a.c": File(CHANGED.content, 0o755)}),
        ([patch(change(5)).replace(b"a/kernel/a.c", b"a/kernel/a.c.orig")], {"kernel/a.c": CHANGED}),
        (["Prose only.\n"], {}),
    ],
)
def test_files_come_go_and_change(tree, texts, files):
    result = applied(tree, *texts)
    assert outcomes(result) == []
    refuse(result)
    assert {name: file for name, file in result.files.items() if name in files or file is not None} == files


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (NEW.format("kernel/a.c"), "exists already"),
        (NEW.format("kernel"), "a folder"),
        (NEW.format("kernel/a.c/b.c"), "a file, not a folder"),
        (NEW.format("link/x.c"), "a symbolic link"),
        (NEW.format("outside/x.c"), "a symbolic link"),
        (NEW.format("kernel/l.c"), "a symbolic link"),
        (patch(change(5), name="kernel/l.c"), "a symbolic link"),
        (patch(change(5), name="link/a.c"), "a symbolic link"),
        (NEW.format("fifo"), "a special file"),
        (patch(change(5), name="kernel/b.c"), "no such file"),
        (GONE.replace("-1,40", "-1,39").replace("-line 40\n", ""), "has more lines"),
        (GONE.replace("-line 7\n", "-line seven\n"), "line seven"),
        (RENAME.replace("a.c", "none.c"), "no such file"),
        (NEW.format("kernel/b.c") + RENAME, "exists already"),
        (NEW.format("n.c") + NEW.format("n.c/m.c"), "n.c is a file"),
        (NEW.format("n/m.c") + NEW.format("n"), "n is a folder"),
    ],
)
def test_what_cannot_be_done_is_rejected_and_says_why(tree, tmp_path, text, why):
    (tmp_path / "elsewhere").mkdir()
    (tree / "link").symlink_to("kernel")
    (tree / "outside").symlink_to(tmp_path / "elsewhere")
    (tree / "kernel/l.c").symlink_to("a.c")
    os.mkfifo(tree / "fifo")
    result = applied(tree, text)
    (hunk,) = result.report[0].unclean
    assert hunk.outcome == "rejected"
    assert why in hunk.why
    with pytest.raises(HarnessError, match=r"1\.patch"):
        refuse(result)
    assert list((tmp_path / "elsewhere").iterdir()) == []


def test_one_file_changed_twice_in_one_patch(tree):
    result = applied(tree, patch(change(5, at=2)) + patch(change(30)))
    assert outcomes(result) == [("offset", 2, 0)]
    assert "changed 5" in content(result)
    assert "changed 30" in content(result)


def test_line_ends_of_file_and_patch(tree):
    dos = TEXT.replace("\n", "\r\n")
    (tree / "kernel/a.c").write_bytes(dos.encode())
    hunk = change(5).replace("\n", "\r\n").replace("@@\r\n", "@@\n")
    assert content(applied(tree, patch(hunk))) == dos.replace("line 5\r", "changed 5\r")
    (report,) = applied(tree, patch(change(5))).report
    assert "line ends differ" in report.unclean[0].why
    (tree / "kernel/a.c").write_text(TEXT)
    assert "changed 5" in content(applied(tree, patch(change(5)).replace(b"\n", b"\r\n")))


NO_END = "\\ No newline at end of file\n"


@pytest.mark.parametrize(
    ("before", "hunk", "after"),
    [
        ("a\nb", f"@@ -1,2 +1,2 @@\n a\n-b\n{NO_END}+c\n", "a\nc\n"),
        ("a\nb\n", f"@@ -1,2 +1,2 @@\n a\n-b\n+c\n{NO_END}", "a\nc"),
        ("a\nb", f"@@ -1,2 +1,2 @@\n-a\n+c\n b\n{NO_END}", "c\nb"),
        ("a\nb", "@@ -1,2 +1,2 @@\n-a\n+c\n b\n", None),
        ("", "@@ -0,0 +1 @@\n+a\n", "a\n"),
    ],
)
def test_missing_newline_at_the_end(tree, before, hunk, after):
    (tree / "kernel/a.c").write_text(before)
    result = applied(tree, patch(hunk))
    assert (content(result) == after) if after is not None else (outcomes(result) == [("rejected", 0, 0)])


def test_reports_show_no_control_characters_and_no_endless_lines(tree):
    (tree / "kernel/a.c").write_bytes(b"line 4\n\x1b[2Jline 5" + b"x" * 50_000_000 + b"\nline 6\n")
    (hunk,) = applied(tree, patch(change(5))).report[0].unclean
    assert "\\x1b[2Jline 5xx" in hunk.why
    assert len(hunk.why) < 2000


@pytest.mark.parametrize(("fits", "fuzz"), [(True, 0), (False, 0), (False, 1)])
def test_ten_thousand_hunks_take_no_minutes(tree, fits, fuzz):
    lines = [f"{'' if n % 9 == 4 else 'common '}{n if n % 9 == 4 else n % 9}" for n in range(90_000)]
    (tree / "kernel/a.c").write_text("\n".join(lines) + "\n")
    hunks = []
    for n in range(4, 90_000, 9):
        old = lines[n] if fits else "common 2"
        hunks.append(f"@@ -{n},3 +{n},3 @@ f(\n {lines[n - 1]}\n-{old}\n+new\n {lines[n + 1]}\n")
    (told,) = applied(tree, patch(*hunks), fuzz=fuzz).report
    assert sum(told.hunks.values()) == 10_000
    assert told.hunks.get("clean", 0) == 10_000 * fits
    assert len(msgspec.json.encode(told)) < 3_000_000
