# SPDX-License-Identifier: MIT
"""Patches are read as they are meant, or refused: nothing in one is guessed or leads out of the tree."""

from __future__ import annotations

import pytest

from harness.build import diff
from harness.errors import HarnessError

HUNK = "@@ -1,3 +1,3 @@ func\n one\n-two\n+TWO\n three\n"


def plain(name: str, hunk: str = HUNK) -> str:
    return f"--- a/{name}\n+++ b/{name}\n{hunk}"


def files(text: str | bytes) -> list[tuple[str | None, str | None, int]]:
    raw = text if isinstance(text, bytes) else text.encode()
    return [(file.old, file.new, len(file.hunks)) for file in diff.parse(raw, "x.patch")]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (f"Prose.\n---\n a.c | 2 +-\n\n{plain('k/a.c')}-- \n2.40\n", [("k/a.c", "k/a.c", 1)]),
        (plain("k/a.c", HUNK + HUNK), [("k/a.c", "k/a.c", 2)]),
        (plain("a.c") + plain("a.c"), [("a.c", "a.c", 1), ("a.c", "a.c", 1)]),
        ("--- a/a.c\t2024-01-01 00:00\n+++ b/a.c\t2024-01-02 00:00\n" + HUNK, [("a.c", "a.c", 1)]),
        (f"--- /dev/null\n+++ b/n.c\n{'@@ -0,0 +1 @@'}\n+x\n", [(None, "n.c", 1)]),
        (
            "--- a/n.c\t1970-01-01 01:00:00\n+++ b/n.c\t2024-01-01 00:00\n@@ -0,0 +1 @@\n+x\n",
            [(None, "n.c", 1)],
        ),
        ("--- a/g.c\n+++ /dev/null\n@@ -1 +0,0 @@\n-x\n", [("g.c", None, 1)]),
        ("diff --git a/e b/e\nnew file mode 100644\nindex 000..e69\n", [(None, "e", 0)]),
        ("diff --git a/e b/e\ndeleted file mode 100644\nindex e69..000\n", [("e", None, 0)]),
        (
            "diff --git a/with space b/with space\nold mode 100644\nnew mode 100755\n",
            [("with space",) * 2 + (0,)],
        ),
        ('--- "a/f\\303\\266\\"o.c"\n+++ "b/f\\303\\266\\"o.c"\n' + HUNK, [('fö"o.c', 'fö"o.c', 1)]),
        (plain("with space.c\t"), [("with space.c", "with space.c", 1)]),
        (
            "diff --git a/o b/n\nsimilarity index 90%\nrename from o\nrename to n\n" + plain("n"),
            [("o", "n", 1)],
        ),
        ("diff --git a/o b/n\nsimilarity index 100%\ncopy from o\ncopy to n\n", [("o", "n", 0)]),
        ("We ran diff --git a/x b/x\ndiff --git a/x b/x\n--- and so on\n", []),
        ("--- a/x\n+++ b/x\nno hunk follows\n", []),
    ],
)
def test_files_and_hunks_of_a_patch(text, expected):
    assert files(text) == expected


def test_a_hunk_keeps_its_lines_and_their_ends():
    end = "\\ No newline at end of file\n"
    text = f"@@ -4,3 +4,2 @@ int f(void)\n a\n\n-b\n{end}+c\n{end}"
    with pytest.raises(HarnessError, match="more lines"):
        files(plain("a.c", text))
    (file,) = diff.parse(plain("a.c", text.replace("4,2", "4,3")).encode(), "x.patch")
    (hunk,) = file.hunks
    assert (hunk.start, hunk.section, hunk.lead, hunk.trail) == (4, "int f(void)", 2, 0)
    assert hunk.lines == (b" a\n", b" \n", b"-b", b"+c")


def test_line_ends_are_the_patchs_only_if_its_headers_have_them_too():
    unix_header = plain("a.c", HUNK.replace("\n", "\r\n").replace("func\r", "func"))
    for text, end in ((plain("a.c").replace("\n", "\r\n"), b"\n"), (unix_header, b"\r\n")):
        (file,) = diff.parse(text.encode(), "x.patch")
        assert file.hunks[0].old == [b"one" + end, b"two" + end, b"three" + end]


REFUSED = {
    "outside": ["../x.c", "k/../../x.c", "/etc/passwd"],
    "belongs to git": [".git/config", "k/.GIT/hooks/x"],
    "belongs to mkharness": ["mkharness-build/Makefile", "mkharness-tree", "k/x.c.mkharness"],
    "no path": ["k//x.c", "./x.c", "k/", "x" * 300, "k/" * 2100 + "x"],
    "control characters": ["k/\x1b[2Jx.c", "k/\udcff.c"],
}


@pytest.mark.parametrize(("why", "path"), [(why, path) for why, paths in REFUSED.items() for path in paths])
@pytest.mark.parametrize("form", ["plain", "new", "rename", "mode", "quoted"])
def test_paths_that_no_patch_may_touch(why, path, form):
    raw = path if path.startswith("/") else f"b/{path}"
    text = {
        "plain": f"--- a/a.c\n+++ {raw}\n{HUNK}",
        "new": f"--- /dev/null\n+++ {raw}\n@@ -0,0 +1 @@\n+x\n",
        "rename": f"diff --git a/a.c {raw}\nrename from a.c\nrename to {path}\n",
        "mode": f"diff --git {raw} {raw}\nold mode 100644\nnew mode 100755\n",
        "quoted": f'--- a/a.c\n+++ "{raw}"\n{HUNK}',
    }[form]
    with pytest.raises(HarnessError, match=rf"x\.patch.*{why}"):
        files(text.encode(errors="surrogateescape"))


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (plain("a.c")[:-7], "damaged"),
        (plain("a.c")[:-3], "damaged"),
        (plain("a.c", HUNK.replace("-1,3", "-1,9")), "damaged"),
        (plain("a.c", HUNK.replace("-1,3 +1,3", "-1,2 +1,2")), "more lines than it says"),
        (plain("a.c", HUNK.replace("+1,3", "+1,2")), "damaged"),
        (plain("a.c", HUNK + "@@ what\n"), "is no hunk"),
        (plain("a.c", f"@@ -{'9' * 5000},3 +1,3 @@\n"), "is no hunk"),
        (
            "diff --git a/l b/l\nnew file mode 120000\n--- /dev/null\n+++ b/l\n@@ -0,0 +1 @@\n+/etc\n",
            "120000",
        ),
        ("diff --git a/s b/s\nnew file mode 160000\n", "160000"),
        ("diff --git a/f b/f\nindex 1..2 100644\nGIT binary patch\nliteral 3\n", "f in binary form"),
        ("diff --git a/f b/f\nindex 1..2\nBinary files a/f and b/f differ\n", "f in binary form"),
        ("diff --cc a.c\nindex 1,2..3\n", "merge"),
        ("--- /dev/null\n+++ b/n.c\n" + HUNK, "new and expects lines"),
        ("--- /dev/null\n+++ /dev/null\n" + HUNK, "without a name"),
    ],
)
def test_what_is_damaged_or_not_understood_is_refused(text, why):
    with pytest.raises(HarnessError, match=rf"x\.patch.*{why}"):
        files(text)
