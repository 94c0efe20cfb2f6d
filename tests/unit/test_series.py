# SPDX-License-Identifier: MIT
"""Series are read in the order in which they apply, from every form that they come in."""

from __future__ import annotations

import base64
from pathlib import Path

import pytest

from harness.build import series
from harness.errors import UsageError

DIFF = "--- a/{name}\n+++ b/{name}\n@@ -1,3 +1,3 @@\n one\n-two\n+TWO\n three\n"


def mail(subject: str, name: str = "a.c", *, body: str | None = None, headers: str = "") -> str:
    text = DIFF.format(name=name) if body is None else body
    return (
        "From 0123456789abcdef0123456789abcdef01234567 Mon Sep 17 00:00:00 2001\n"
        f"From: A Developer <dev@example.org>\nSubject: {subject}\n{headers}\nProse.\n---\n{text}"
        "-- \n2.47.0\n\n"
    )


def write(folder: Path, **files: str) -> Path:
    for name, text in files.items():
        (folder / name.replace("__", ".")).write_text(text)
    return folder


def subjects(path: Path) -> list[str]:
    return [patch.subject for patch in series.read(path).patches]


def test_plain_diffs_sort_by_name(tmp_path):
    write(tmp_path, b__patch=DIFF.format(name="b"), a__patch=DIFF.format(name="a"), README="no patch")
    assert subjects(tmp_path) == ["a", "b"]


def test_quilt_series_rules(tmp_path):
    write(
        tmp_path,
        a__patch=DIFF.format(name="a"),
        b__patch=DIFF.format(name="b"),
        c__patch=DIFF.format(name="c"),
    )
    (tmp_path / "series").write_text("# order\nb.patch -p1  # first\n\na.patch\n")
    assert subjects(tmp_path) == ["b", "a"]


def test_quilt_series_for_one_version(tmp_path):
    write(tmp_path, a__patch=DIFF.format(name="a"), b__patch=DIFF.format(name="b"))
    (tmp_path / "6.12").mkdir()
    write(tmp_path / "6.12", first__patch=DIFF.format(name="first"))
    (tmp_path / "series").write_text("a.patch\nb.patch\n")
    (tmp_path / "series.6.12").write_text("6.12/first.patch\na.patch\nb.patch\n")
    assert subjects(tmp_path) == ["a", "b"]
    assert subjects(tmp_path / "series.6.12") == ["first", "a", "b"]


@pytest.mark.parametrize("line", ["missing.patch", "a.patch -p0", "empty.patch"])
def test_bad_quilt_series_is_named(tmp_path, line):
    write(tmp_path, a__patch=DIFF.format(name="a"), empty__patch="")
    (tmp_path / "series").write_text(line + "\n")
    with pytest.raises(UsageError, match=r"series"):
        series.read(tmp_path)


def test_mails_sort_by_number_not_by_name(tmp_path):
    write(
        tmp_path,
        a__eml=mail("[PATCH v2 10/10] last"),
        b__eml=mail("[PATCH v2 2/10] second"),
        c__eml=mail("[RFC PATCH v2 1/10] first"),
        d__eml=mail("[PATCH v2 00/10] cover", body="no diff here\n"),
        e__eml=mail("Re: [PATCH v2 2/10] second"),
    )
    assert subjects(tmp_path) == [
        "[RFC PATCH v2 1/10] first",
        "[PATCH v2 2/10] second",
        "[PATCH v2 10/10] last",
    ]


def test_mbox_with_two_re_rolls_gives_the_newer(tmp_path):
    box = tmp_path / "thread.mbox"
    mails = [
        mail("[PATCH 2/2] old b"),
        mail("[PATCH v3 2/2] b"),
        mail("[PATCH 1/2] old a"),
        mail("[PATCH v3 1/2] a"),
    ]
    box.write_text("".join(mails))
    assert subjects(box) == ["[PATCH v3 1/2] a", "[PATCH v3 2/2] b"]


def test_line_starting_with_from_does_not_split_a_mail(tmp_path):
    body = "From then on it works, since 12:00:00 2024.\n" + DIFF.format(name="a")
    (tmp_path / "a.mbox").write_text(mail("[PATCH 1/1] one", body=body))
    assert len(series.read(tmp_path / "a.mbox").patches) == 1


@pytest.mark.parametrize("encoding", ["base64", "quoted-printable"])
def test_encoded_mail_gives_the_same_patch(tmp_path, encoding):
    diff = DIFF.format(name="a").replace("+1,3", "+1,4") + "+é\n"
    if encoding == "base64":
        body = base64.encodebytes(diff.encode()).decode()
    else:
        body = diff.replace("=", "=3D").replace("é", "=C3=A9")
    text = (
        f"From: a <a@example.org>\nSubject: [PATCH 1/1] x\nMIME-Version: 1.0\n"
        f"Content-Type: text/plain; charset=utf-8\nContent-Transfer-Encoding: {encoding}\n\n{body}"
    )
    (tmp_path / "a.eml").write_text(text)
    (patch,) = series.read(tmp_path).patches
    assert patch.text.decode().rstrip("\n") == diff.rstrip("\n")


def test_crlf_of_mail_transport_is_undone(tmp_path):
    (tmp_path / "a.eml").write_bytes(mail("[PATCH 1/1] x").replace("\n", "\r\n").encode())
    (patch,) = series.read(tmp_path).patches
    assert b"\r" not in patch.text


def test_digest_goes_by_content(tmp_path):
    one, two, three = (tmp_path / name for name in "123")
    for folder, name, content in ((one, "a.patch", "a"), (two, "z.patch", "a"), (three, "a.patch", "b")):
        folder.mkdir()
        (folder / name).write_text(DIFF.format(name=content))
    assert series.read(one).digest == series.read(two).digest != series.read(three).digest


def test_nothing_is_a_usage_error(tmp_path):
    for path in (tmp_path, tmp_path / "missing"):
        with pytest.raises(UsageError, match=str(path)):
            series.read(path)
    assert series.read(None).patches == ()


def test_hostile_bytes_do_not_crash(tmp_path):
    (tmp_path / "a.patch").write_bytes(bytes(range(256)) * 50 + b"\n@@ -1,99999 +1 @@\ndiff --git\n--- a\n")
    with pytest.raises(UsageError):
        series.read(tmp_path)
