# SPDX-License-Identifier: MIT
"""Broken and hostile series, shaped like those that people have: each ends in an error that says what
to do, or is read as it was meant; and nothing is written.
"""

from __future__ import annotations

import base64
import gzip
import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from mails import ENVELOPE, body, box, change, mail, whole

from harness.build import diff, series
from harness.build import mail as mails
from harness.errors import HarnessError

Maker = Callable[[Path], str | Path]


def file(raw: bytes, name: str = "a.mbox") -> Maker:
    def make(folder: Path) -> Path:
        (folder / name).write_bytes(raw)
        return folder / name

    return make


def folder(**files: str | bytes) -> Maker:
    def make(place: Path) -> Path:
        for name, content in files.items():
            raw = content.encode() if isinstance(content, str) else content
            (place / name.replace("__", ".")).write_bytes(raw)
        return place

    return make


def git(place: Path, *words: str) -> str:
    identity = {f"GIT_{who}_{what}": "x@x" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
    return subprocess.run(
        ["git", "-C", str(place), *words],
        check=True,
        capture_output=True,
        text=True,
        env=os.environ | identity,
    ).stdout


def repository(place: Path) -> Path:
    """main: two commits to a; side: one to b, from the first."""
    git(place, "init", "-q", "-b", "main")
    for branch, name, text in (("main", "a", "1\n"), ("main", "a", "2\n"), ("side", "b", "1\n")):
        if branch == "side":
            git(place, "checkout", "-q", "-b", "side", "HEAD~1")
        (place / name).write_text(text)
        git(place, "add", name)
        git(place, "commit", "-q", "-m", f"{name} {text.strip()}")
    return place


def commits(text: str) -> Maker:
    return lambda place: text.format(repository(place))


def merged(place: Path) -> str:
    git(repository(place), "merge", "-q", "-m", "both", "main")
    return f"{place}:main~1..side"


def linked(target: str) -> Maker:
    def make(place: Path) -> Path:
        (place.parent / "outside.patch").write_text(change())
        (place / "a.patch").symlink_to(target)
        return place

    return make


def fifo(place: Path) -> Path:
    os.mkfifo(place / "a.patch")
    return place / "a.patch"


def nested(depth: int) -> bytes:
    heads = "".join(f'Content-Type: multipart/mixed; boundary="b{n}"\n\n--b{n}\n' for n in range(depth))
    return f"From: a@x\nSubject: [PATCH] deep\nMIME-Version: 1.0\n{heads}\n{change()}".encode()


ONE = body(change())
CUT = box(*whole(3))
TORN = ONE.replace(" three\n", "")
FLOWED = mail("[PATCH 1/1] part 1", ONE).replace(b"utf-8", b"utf-8; format=flowed")
STRANGER = {"sender": "Somebody Else <else@example.org>"}

ERRORS: dict[str, tuple[Maker, str]] = {
    # cut off, damaged
    "mbox cut off in a hunk": (file(CUT[: CUT.rindex(b"+TWO")]), "damaged"),
    "mbox cut off between mails": (file(CUT[: CUT.rindex(ENVELOPE)]), "1 of 3 patches are missing: 3/3"),
    "mbox cut off in a message": (file(CUT[: CUT.rindex(b"Signed-off")]), "missing: 3/3"),
    "mbox cut off in a header": (file(CUT[: CUT.rindex(b"Subject") + 12]), "missing: 3/3"),
    "mbox.gz cut off": (file(gzip.compress(CUT)[:-30], "a.mbox.gz"), "damaged"),
    "mbox.gz that is none": (file(b"\x1f\x8bnothing", "a.mbox.gz"), "damaged"),
    "file padded with NUL": (file(ONE.encode() + bytes(4096), "a.patch"), "NUL"),
    "NUL in the middle of a mail": (file(mail("[PATCH 1/1] x", ONE.replace("three", "th\0ree"))), "NUL"),
    "hunk with fewer lines than it says": (file(mail("[PATCH] x", TORN)), "damaged"),
    "lines wrapped by a mailer": (file(mail("[PATCH] x", ONE.replace("+TWO", "+a long\nline"))), "damaged"),
    "base64 that is none": (
        file(mail("[PATCH 1/1] x", "%%%% no base64 !!!", headers="Content-Transfer-Encoding: base64\n")),
        "no patch",
    ),
    # not a patch
    "empty file": (file(b""), "no patch"),
    "empty folder": (folder(), "no patch"),
    "folder of other things": (folder(README__md=ONE, photo__jpg=b"\xff\xd8\xff"), "no patch"),
    "nothing there": (lambda place: place / "missing", "No such file"),
    "mbox of a discussion": (file(box(mail("Kernels", "Yes.\n"), mail("Re: Kernels", "No.\n"))), "a reply"),
    "only replies with diffs": (file(box(mail("Re: [PATCH 1/2] x", ONE))), "no patch"),
    "only a cover letter": (file(mail("[PATCH 0/2] x", "What for.\n")), "no patch"),
    "random bytes": (folder(a__patch=bytes(range(256)) * 99 + b"\n@@ -1,9 +1 @@\n"), "NUL"),
    "one endless line": (file(b"From " + b"x 12:00" * 1_000_000, "a.patch"), "no patch"),
    "one endless header": (file(b"Subject: [PATCH" + b"v" * 5_000_000 + b"\n\nx\n"), "no patch"),
    "UTF-16, as some shells write": (file(ONE.encode("utf-16"), "a.patch"), "UTF-16"),
    "HTML only": (
        file(mail("[PATCH 1/1] x", f"<pre>{ONE}</pre>").replace(b"text/plain", b"text/html")),
        "HTML only",
    ),
    "format=flowed": (file(FLOWED), "format=flowed"),
    "MIME nested without end": (file(nested(3000)), "no patch"),
    "FIFO": (fifo, "no regular file"),
    # which patches, in which order
    "two different patches with one number": (
        file(box(*whole(3), mail("[PATCH 2/3] other", body(change("z.c"))))),
        "number 2 in v1.*part 2.*other",
    ),
    "two series of one length": (
        file(box(*whole(2), *(m.replace(b"part", b"thing").replace(b"TWO", b"II") for m in whole(2)))),
        "several different patches have number 1",
    ),
    "two series of different length": (file(box(*whole(2), *whole(4)[2:])), "2 and 4 parts"),
    "another series with a higher version": (
        file(box(*whole(2), mail("[PATCH v3 1/1] net", body(change("net.c")), **STRANGER))),
        "different series",
    ),
    "a re-roll of one patch only": (file(box(*whole(3), whole(3, " v2")[1])), "missing: 1/3, 3/3"),
    "single patches of two versions": (
        file(box(mail("[PATCH] old title", ONE), mail("[PATCH v2] new title", body(change("b.c"))))),
        "v1 and v2",
    ),
    "a plain diff beside numbered patches": (
        folder(**{f"{n}__eml": one for n, one in enumerate(whole(2))}, fixup__diff=change("b.c")),
        "fixup.diff has no number",
    ),
    # quilt
    "quilt names a missing file": (folder(series="a.patch\n"), r"'a.patch'"),
    "quilt names a file outside": (folder(series="../outside.patch\n"), "leads out of"),
    "quilt names an absolute path": (folder(series="/etc/passwd\n"), "leads out of"),
    "quilt names itself": (folder(series="series\n"), "no patch"),
    "quilt names its folder": (folder(series=".\n"), "no regular file"),
    "quilt strips another way": (folder(series="a.patch -p0\n", a__patch=ONE), "-p1"),
    "quilt names a damaged patch": (folder(series="a.patch\n", a__patch=TORN), "damaged"),
    "quilt with bytes for names": (folder(series=b"\xff\xfe\x00x.patch\n"), "cannot use the line"),
    "quilt that is empty": (folder(series="# nothing\n", a__patch=ONE), "no patch"),
    # links
    "link out of the folder": (linked("../outside.patch"), "leads out of"),
    "link to an absolute path": (linked("/etc/passwd"), "leads out of"),
    "link to itself": (linked("a.patch"), "no patch"),
    # git
    "no range": (commits("git:{0}"), "not a range"),
    "three dots": (commits("{0}:main...side"), "not a range"),
    "half a range": (commits("{0}:main.."), "not a range"),
    "unknown revision": (commits("{0}:main..nosuch"), "no revision nosuch"),
    "revision that looks like an option": (commits("{0}:--output=x..main"), "no revision --output=x"),
    "empty range": (commits("{0}:main..main"), "no commit"),
    "range the wrong way round": (commits("{0}:main..main~1"), "no commit"),
    "merges in the range": (merged, "1 merge commit"),
    "folder that is no repository": (lambda place: f"{place}:a..b", "git cannot read"),
    "repository that is not there": (lambda place: f"git:{place}/none:a..b", "no folder"),
}  # fmt: skip

RIGHT: dict[str, tuple[Maker, list[str]]] = {
    "attachment only": (file(mail("[PATCH 1/1] x", ONE, "attached")), ["[PATCH 1/1] x"]),
    "patches attached as mails": (
        file(mail("two patches", b"".join(box(one) for one in whole(2)), "attached")),
        ["[PATCH 1/2] part 1", "[PATCH 2/2] part 2"],
    ),
    "unknown character set": (file(mail("[PATCH] x", ONE).replace(b"utf-8", b"x-none")), ["[PATCH] x"]),
    "character set that is not the bytes'": (
        file(mail("[PATCH 1/1] x", ONE.encode().replace(b"three", b"thr\xe9"))),
        ["[PATCH 1/1] x"],
    ),
    "UTF-16 in base64": (
        file(
            b"From: a@x\nSubject: [PATCH] x\nContent-Type: text/plain; charset=utf-16\n"
            b"Content-Transfer-Encoding: base64\n\n" + base64.encodebytes(ONE.encode("utf-16"))
        ),
        ["[PATCH] x"],
    ),
    "mark of byte order": (file(b"\xef\xbb\xbf" + mail("[PATCH 1/1] x", ONE)), ["[PATCH 1/1] x"]),
    "subject that moves the cursor": (
        file(mail("=?utf-8?q?[PATCH_1/1]_=1B[2J=1B]0=3Bx=07?=", ONE)),
        ["[PATCH 1/1] [2J]0;x"],
    ),
    "subject folded and in pieces": (
        file(mail("[PATCH\n v2 =?utf-8?q?1/1]_caf=C3?=\n =?utf-8?q?=A9?=", ONE)),
        ["[PATCH v2 1/1] café"],
    ),
    "numbers over nine, two digits": (
        file(box(*reversed([mail(f"[PATCH {n:02}/16] x", body(change(f"{n}.c"))) for n in range(1, 17)]))),
        [f"[PATCH {n:02}/16] x" for n in range(1, 17)],
    ),
    "numbers over nine, as they are": (
        file(box(*reversed(whole(11)))), [f"[PATCH {n}/11] part {n}" for n in range(1, 12)],
    ),
    "a patch after the last": (
        file(box(mail("[PATCH 3/2] late", body(change("z.c"))), *whole(2))),
        ["[PATCH 1/2] part 1", "[PATCH 2/2] part 2", "[PATCH 3/2] late"],
    ),
    "everything sent twice": (file(box(*whole(2), *whole(2))), ["[PATCH 1/2] part 1", "[PATCH 2/2] part 2"]),
    "a reply that flowed": (
        file(box(*whole(1), FLOWED.replace(b"Subject: ", b"Subject: Re: "))),
        ["[PATCH 1/1] part 1"],
    ),
    "an older version that is damaged": (
        file(box(*whole(1, " v2"), mail("[PATCH 1/1] part 1", TORN))),
        ["[PATCH v2 1/1] part 1"],
    ),
    "10,000 hunks": (
        file(mail("[PATCH 1/1] x", "diff --git a/f b/f\n--- a/f\n+++ b/f\n" + "".join(
            f"@@ -{n},1 +{n},1 @@\n-a\n+b\n" for n in range(1, 40_000, 4)
        ))),
        ["[PATCH 1/1] x"],
    ),
    "a line of 5 MB": (file(mail("[PATCH] x", body(change(new="x" * 5_000_000)), "qp")), ["[PATCH] x"]),
    "mbox.gz as an archive offers it": (
        file(gzip.compress(CUT), "t.mbox.gz"), [f"[PATCH {n}/3] part {n}" for n in (1, 2, 3)],
    ),
    "a folder within, named series": (
        lambda place: [(place / "series").mkdir(), folder(a__patch=change())(place)][1], ["a"],
    ),
    "a folder named series": (
        lambda place: [(place / "series").mkdir(), folder(a__patch=change())(place / "series")][1], ["a"],
    ),
    "the quilt file itself": (
        lambda place: (
            folder(series="b.patch\na.patch\n", a__patch=change("a"), b__patch=change("b"))(place) / "series"
        ),
        ["b", "a"],
    ),
    "quilt with numbers of another order": (
        folder(series="b.eml\n", a__eml=whole(2)[0], b__eml=whole(2)[1]), ["[PATCH 2/2] part 2"],
    ),
    "a commit that quotes a diff": (
        lambda place: [repository(place), git(place, "commit", "-q", "--amend", "-m", "b\n\n" + change())]
        and f"{place}:side~1..side",
        ["b"],
    ),
}  # fmt: skip


def everything(place: Path) -> dict[str, tuple[int, bytes]]:
    return {
        str(found): (found.lstat().st_mtime_ns, found.read_bytes() if found.is_file() else b"")
        for found in sorted(place.rglob("*"))
    }


@pytest.fixture
def place(tmp_path, monkeypatch):
    monkeypatch.setenv("MKHARNESS_CACHE", str(tmp_path / "cache"))
    (tmp_path / "here").mkdir()
    return tmp_path / "here"


@pytest.mark.parametrize("case", ERRORS)
def test_a_broken_series_ends_in_an_error_that_says_what_to_do(case, place):
    make, told = ERRORS[case]
    given = make(place)
    before = everything(place.parent)
    with pytest.raises(HarnessError, match=rf"(?s){told}") as error:
        series.read(given)
    assert error.value.exit_status == 2
    assert error.value.advice
    assert len(str(error.value)) < 6000
    assert everything(place.parent) == before


@pytest.mark.parametrize("case", RIGHT)
def test_an_odd_series_is_read_as_it_was_meant(case, place):
    make, subjects = RIGHT[case]
    given = make(place)
    before = everything(place.parent)
    found = series.read(given)
    assert [patch.subject for patch in found.patches] == subjects
    assert all(diff.parse(patch.text, patch.name) for patch in found.patches)
    assert everything(place.parent) == before


def test_what_unpacks_without_end_is_refused(place, monkeypatch):
    monkeypatch.setattr(mails, "LIMIT", 1 << 20)
    bomb = file(gzip.compress(bytes(4 << 20)), "a.mbox.gz")(place)
    with pytest.raises(HarnessError, match="unpacks to more than 1 MB"):
        series.read(bomb)


NEW = """diff --git a/new.c b/new.c
new file mode 100644
index 000000000000..0123456789ab
--- /dev/null
+++ b/new.c
@@ -0,0 +1,2 @@
+one
+two
"""
RENAMED = """diff --git a/x.c b/y.c
similarity index 90%
rename from x.c
rename to y.c
index 0123456789ab..ba9876543210 100644
--- a/x.c
+++ b/y.c
@@ -1,3 +1,3 @@
 one
-two
+TWO
 three
"""
LONG = box(whole(2)[0], mail("[PATCH 2/2] x", body(change() + NEW + RENAMED + change("last.c"))))


def diffs(found: series.Series) -> list[object]:
    return [diff.parse(patch.text, patch.name) for patch in found.patches]


def test_wherever_a_patch_is_cut_off_it_is_told_as_damaged_or_as_shorter(place):
    """At the border of two files nothing is damaged, but the mail's own count of files tells."""
    whole_diffs = diffs(series.read(file(LONG)(place)))
    told = {"damaged": 0, "shorter": 0, "whole": 0}
    for at in range(LONG.rindex(ENVELOPE), len(LONG)):
        try:
            found = series.read(file(LONG[:at])(place))
        except HarnessError:
            told["damaged"] += 1
            continue
        shorter = any("its summary says 4" in note for note in found.notes)
        assert shorter or diffs(found) == whole_diffs, LONG[:at][-200:]
        told["shorter" if shorter else "whole"] += 1
    assert all(told.values())
