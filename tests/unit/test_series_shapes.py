# SPDX-License-Identifier: MIT
"""However a series is carried, mixed and shuffled, the same patches come out in the same order."""

from __future__ import annotations

import contextlib
import tempfile
from pathlib import Path

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from mails import SENDER, body, box, change, mail

from harness.build import series
from harness.errors import HarnessError

FORMS = ("plain", "qp", "base64", "multipart", "attached", "crlf")

# What a line of source may hold and a mailer may break: tabs, blanks at the end, equals signs, dots,
# "From ", a form feed, letters of other scripts, a very long line.
LINE = st.one_of(
    st.text(st.sampled_from("ab=\t .-+From é漢\x0c\\"), max_size=30),
    st.just("From x"),
    st.just("-- "),
    st.just("x" * 1200),
)
PATCHES = st.lists(st.tuples(LINE, LINE), min_size=1, max_size=12)


def titled(number: int, total: int, roll: int, style: int) -> str:
    version = f" v{roll}" if roll > 1 else ""
    width = len(str(total)) if style % 2 else 1
    place = f"{number:0{width}d}/{total}"
    return (
        f"[PATCH{version} {place}] part {number}",
        f"[RFC Patch{version} {place}] part {number}",
        f"[list] [PATCH RFC net-next{version} {place}] part {number}",
        f"[PATCH{version.strip()} {place}] part {number}",
    )[style]


def of(patches: list[tuple[str, str]]) -> list[str]:
    return [body(change(f"f{number}.c", old, f"{new}!")) for number, (old, new) in enumerate(patches, 1)]


def read(folder: Path, mails: list[bytes], *, as_box: bool) -> series.Series:
    if as_box:
        (folder / "thread.mbox").write_bytes(box(*mails))
        return series.read(folder / "thread.mbox")
    for number, one in enumerate(mails):
        (folder / f"{number:03}.eml").write_bytes(one)
    return series.read(folder)


@settings(deadline=None, max_examples=150, suppress_health_check=[HealthCheck.too_slow])
@given(patches=PATCHES, data=st.data())
def test_a_thread_in_any_shape_gives_the_same_series(patches, data):
    bodies, total = of(patches), len(patches)
    style = data.draw(st.integers(0, 3), label="style")
    newest = data.draw(st.integers(1, 3), label="newest re-roll")
    with tempfile.TemporaryDirectory() as plain:
        made = [mail(titled(n, total, newest, style), text) for n, text in enumerate(bodies, 1)]
        wanted = read(Path(plain), made, as_box=False)

    mails = []
    for number, text in enumerate(bodies, 1):
        form = data.draw(st.sampled_from(FORMS))
        subject = titled(number, total, newest, style)
        mails.append(mail(subject, text, form))
        if data.draw(st.booleans()):
            mails.append(
                mail(f"Re: {subject}", "\n".join(f"> {line}" for line in text.splitlines()) + "\nNice.\n")
            )
        if data.draw(st.booleans()):
            mails.append(mail(f"[bot ci] Re: {subject}", f"Built.\n{change('bot.c')}"))
        if data.draw(st.booleans()):
            mails.append(mail(subject, text, data.draw(st.sampled_from(FORMS))))
        for older in range(1, newest):
            mails.append(
                mail(titled(number, total, older, style), body(change(f"f{number}.c", "x", f"v{older}")))
            )
    mails.append(mail(titled(0, total, newest, style), "What for.\n"))
    mails.append(mail("patch added to somebody's tree", body(change("f1.c", "x", "theirs"))))
    shuffled = data.draw(st.permutations(mails))

    with tempfile.TemporaryDirectory() as folder:
        found = read(Path(folder), shuffled, as_box=data.draw(st.booleans(), label="mbox"))
    assert [patch.subject for patch in found.patches] == [
        titled(n, total, newest, style) for n in range(1, total + 1)
    ]
    assert found.digest == wanted.digest
    assert {patch.author for patch in found.patches} == {SENDER}
    assert len(found.patches) + len(found.left_out) == len(mails)
    assert any("newest of" in note for note in found.notes) == (newest > 1)


@settings(deadline=None, max_examples=100)
@given(patches=PATCHES, gone=st.data())
def test_a_missing_part_is_always_named(patches, gone):
    total = len(patches) + 1
    absent = gone.draw(st.integers(1, total))
    numbers = [number for number in range(1, total + 1) if number != absent]
    mails = [mail(f"[PATCH {n}/{total}] x", text) for n, text in zip(numbers, of(patches), strict=True)]
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "a.mbox"
        file.write_bytes(box(*mails))
        assert series.look(file).missing == (absent,)


@settings(deadline=None, max_examples=300)
@given(raw=st.binary(max_size=300), cuts=st.data())
def test_bytes_thrown_into_a_thread_end_in_a_series_or_an_error(raw, cuts):
    mails = box(*(mail(f"[PATCH {n}/2] x", text) for n, text in enumerate(of([("a", "b"), ("c", "d")]), 1)))
    at = cuts.draw(st.integers(0, len(mails)))
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "a.mbox"
        file.write_bytes(mails[:at] + raw + mails[at + cuts.draw(st.integers(0, 40)) :])
        with contextlib.suppress(HarnessError):
            series.read(file)
        assert list(Path(folder).iterdir()) == [file]
