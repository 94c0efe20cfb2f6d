# SPDX-License-Identifier: MIT
"""checkpatch and sparse name what a series brings, and nothing that was there before."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from harness import paths
from harness.build import check
from harness.build.messages import Message
from harness.build.series import Patch
from harness.progress import Progress

PATCH = b"""It says x.

Signed-off-by: A Person <a@example.org>
---
 lib/mkh.c | 4 ++++
diff --git a/lib/mkh.c b/lib/mkh.c
index 1111111..2222222 100644
--- a/lib/mkh.c
+++ b/lib/mkh.c
@@ -1,2 +1,4 @@
 // SPDX-License-Identifier: GPL-2.0
+int a( int b ){ return b; }
+
 int b;
"""


def test_checkpatch_names_patch_file_and_line():
    trees = sorted((paths.cache() / "sources").glob("*/scripts/checkpatch.pl"))
    if not trees:
        pytest.skip("no kernel source in the cache; `mkh build reference` gets one")
    quiet = Progress(Console(file=io.StringIO()))
    patch = Patch("0001-x.patch", "lib: Say x", PATCH, author="A Person <a@example.org>")
    remarks = check.checkpatch(trees[0].parent.parent, [patch], quiet)
    assert not any("Signed-off-by" in remark.text for remark in remarks)
    about = [remark for remark in remarks if "space prohibited" in remark.text]
    assert about
    assert {(remark.patch, remark.file, remark.line) for remark in about} == {
        ("0001-x.patch", "lib/mkh.c", 2)
    }
    assert str(about[0]).startswith("checkpatch: 0001-x.patch: lib/mkh.c:2: error: space prohibited")


def test_only_remarks_on_added_lines_are_the_series_own(tmp_path):
    old, new = tmp_path / "old", tmp_path / "new"
    old.mkdir()
    new.mkdir()
    (old / "a.c").write_text("one\ntwo\nthree\n")
    (new / "a.c").write_text("one\n2\ntwo\nthree\nfour\n")
    (new / "b.c").write_text("x\n")
    assert check.added_lines(old / "a.c", new / "a.c") == {2, 5}
    said = [
        Message("warning", "gcc", f"{file}{line}", file, line)
        for file in ("a.c", "b.c")
        for line in (1, 2, 5)
    ]
    found = check.new_remarks([*said, *said], old, new, ["a.c", "b.c"])
    assert [remark.text for remark in found] == ["a.c2", "a.c5", "b.c1"]
