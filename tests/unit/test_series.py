# SPDX-License-Identifier: MIT
"""Series are read in the order in which they apply, from every form that they come in."""

from __future__ import annotations

import base64
import io
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console

from harness import paths
from harness.build import rolls, series
from harness.definition import load_definition
from harness.errors import UsageError
from harness.progress import Progress

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
        a__eml=mail("[PATCH v2 3/3] last"),
        b__eml=mail("[PATCH v2 2/3] second"),
        c__eml=mail("[RFC PATCH v2 1/3] first"),
        d__eml=mail("[PATCH v2 0/3] cover", body="no diff here\n"),
        e__eml=mail("Re: [PATCH v2 2/3] second"),
    )
    assert subjects(tmp_path) == ["[RFC PATCH v2 1/3] first", "[PATCH v2 2/3] second", "[PATCH v2 3/3] last"]


@pytest.mark.parametrize(
    ("subject", "read"),
    [
        ("[PATCH] x", ("x", (1, 0), None, 0)),
        ("[PATCH 3/7] x", ("x", (1, 0), 3, 7)),
        ("[RFC Patch v2 03/16] kexec: x", ("kexec: x", (2, 0), 3, 16)),
        ("[PATCHv3 1/2] x", ("x", (3, 0), 1, 2)),
        ("[PATCH V4 1/2] x", ("x", (4, 0), 1, 2)),
        ("[PATCH v2.1 1/2] x", ("x", (2, 1), 1, 2)),
        ("[RFC v2 1/2] x", ("x", (2, 0), 1, 2)),
        ("[RFC][PATCH 1/2] x", ("x", (1, 0), 1, 2)),
        ("[PATCH 1/2] [v2] x", ("x", (2, 0), 1, 2)),
        ("[linux-mm] [PATCH RESEND net-next v2 1/2] [fix] x", ("x", (2, 0), 1, 2)),
        ("[PATCH 6.12 01/99] x", ("x", (1, 0), 1, 99)),
        ("[PATCH 1 / 2] x", ("x", (1, 0), 1, 2)),
        ("[tip: x86/urgent] x", None),
        ("[syzbot] x", None),
        ("PATCH 1/2 x", None),
        ("Re: [PATCH 1/2] x", None),
    ],
)
def test_brackets_before_a_subject_say_which_part_it_is(subject, read):
    found = rolls.tag(subject)
    assert (found and (found.title, found.roll, found.number, found.total)) == read


@pytest.mark.parametrize(
    "subject", ["Re: [PATCH 1/2] x", "RE:x", "Fwd: x", "[bot] Re: [PATCH 1/2] x", "AW: x", "Re[2]: x"]
)
def test_replies_are_known(subject):
    assert rolls.is_reply(subject)


@pytest.mark.parametrize("subject", ["Reset: x", "x Re: y", "[PATCH] x: re: y", "[PATCH 1/2] refs: x"])
def test_not_everything_with_re_is_a_reply(subject):
    assert not rolls.is_reply(subject)


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


THREAD = (
    ("[PATCH 0/2] cover", "What for.\n\nbase-commit: 0123456789abcdef0123456789abcdef01234567\n"
     "prerequisite-patch-id: fedcba9876543210fedcba9876543210fedcba98\n"),
    ("[PATCH v2 2/2] b", None),
    ("Re: [PATCH v2 2/2] b", "Fine.\n"),
    ("[PATCH 2/2] b", None),
    ("[PATCH v2 0/2] cover", "Why.\n\nbase-commit: 89abcdef0123456789abcdef0123456789abcdef\n"
     "prerequisite-patch-id: 0123456789abcdef0123456789abcdef01234567\n"),
    ("[PATCH v2 1/2] a", None),
    ("[PATCH 1/2] a", None),
)  # fmt: skip


@pytest.fixture
def thread(tmp_path):
    box = tmp_path / "thread.mbox"
    box.write_text("".join(mail(subject, body=text) for subject, text in THREAD))
    return box


def run(*words: str) -> tuple[int, str, str]:
    done = subprocess.run([sys.executable, "-c", "from harness.cli import main; main()", *words], text=True,
                          capture_output=True, check=False, env=os.environ | {"COLUMNS": "200"})  # fmt: skip
    return done.returncode, done.stdout, done.stderr


def test_the_choice_is_told_where_progress_is(thread):
    screen = io.StringIO()
    series.read(thread, Progress(Console(file=screen, width=200)))
    said = screen.getvalue()
    assert "v2 is taken, the newest of v1, v2" in said
    assert "left out: 1 (a reply), 3 (v1; v2 is newer), 1 (a cover letter)" in said
    assert f"mkh series show {thread}" in said


def test_where_nothing_was_chosen_nothing_is_told(tmp_path):
    write(tmp_path, a__patch=DIFF.format(name="a"))
    screen = io.StringIO()
    series.read(tmp_path, Progress(Console(file=screen)))
    assert screen.getvalue() == ""


def test_the_base_is_that_of_the_chosen_version(thread):
    found = series.read(thread)
    assert found.base_commit == "89abcdef0123456789abcdef0123456789abcdef"
    assert found.prerequisites == ("0123456789abcdef0123456789abcdef01234567",)


def test_show_lists_what_there_is_to_know(thread):
    status, out, _ = run("series", "show", str(thread))
    assert status == 0
    for text in (
        "[PATCH v2 1/2] a",
        "A Developer",
        "a.c",
        "base commit: 89abcdef",
        "0123456789abcdef",
        "a reply",
    ):
        assert text in out
    assert out.index("[PATCH v2 1/2]") < out.index("[PATCH v2 2/2]")


def test_show_gives_json(thread):
    status, out, _ = run("series", "show", str(thread), "--json")
    found = json.loads(out)
    assert status == 0
    assert [patch["subject"] for patch in found["patches"]] == ["[PATCH v2 1/2] a", "[PATCH v2 2/2] b"]
    assert found["patches"][0]["files"] == [{"path": "a.c", "added": 1, "removed": 1}]
    assert found["digest"] == series.read(thread).digest
    assert len(found["left_out"]) == 5


def test_show_names_what_is_missing_and_fails(tmp_path):
    (tmp_path / "a.mbox").write_text(mail("[PATCH 1/3] a") + mail("[PATCH 3/3] c"))
    status, out, _ = run("series", "show", str(tmp_path / "a.mbox"))
    assert status == 1
    assert "missing: 2/3" in out
    assert "[PATCH 3/3] c" in out
    assert json.loads(run("series", "show", str(tmp_path / "a.mbox"), "--json")[1])["missing"] == [2]


def test_show_takes_a_definition_too():
    status, out, _ = run("series", "show", "reference", "--json")
    assert status == 0
    assert json.loads(out)["digest"] == series.read(paths.KERNELS / "reference").digest
    assert run("series", "show", "rfc-v1")[0] == 2


def test_show_of_nothing_is_a_usage_error(tmp_path):
    status, _, errors = run("series", "show", str(tmp_path / "missing"))
    assert status == 2
    assert "What to do:" in errors


@pytest.mark.parametrize(
    ("written", "found"),
    [
        ("patches", "{folder}/patches"),
        ("/x/y", "/x/y"),
        ("git:/linux:v1..v2", "git:/linux:v1..v2"),
        ("b4:1@example.org", "b4:1@example.org"),
        ("https://lore.kernel.org/r/1@example.org", "https://lore.kernel.org/r/1@example.org"),
    ],
)
def test_a_definition_may_name_any_place(tmp_path, written, found):
    text = (
        (paths.KERNELS / "reference.toml")
        .read_text()
        .replace('series = "reference"', f'series = "{written}"')
    )
    (tmp_path / "mine.toml").write_text(text)
    assert load_definition(str(tmp_path / "mine.toml")).series == found.format(folder=tmp_path)


def test_nothing_is_a_usage_error(tmp_path):
    for path in (tmp_path, tmp_path / "missing"):
        with pytest.raises(UsageError, match=str(path)):
            series.read(path)
    assert series.read(None).patches == ()


def test_hostile_bytes_do_not_crash(tmp_path):
    (tmp_path / "a.patch").write_bytes(bytes(range(256)) * 50 + b"\n@@ -1,99999 +1 @@\ndiff --git\n--- a\n")
    with pytest.raises(UsageError):
        series.read(tmp_path)
