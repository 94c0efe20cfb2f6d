# SPDX-License-Identifier: MIT
"""A series in, patches in order out; and patches onto a tree, with a report for each hunk.

A series is a folder of patches (with or without a quilt ``series`` file; plain diffs or mails as
saved from a list) or one mbox. Application is strict: a hunk may have moved, its lines may not
have changed.
"""

from __future__ import annotations

import email
import email.message
import email.policy
import re
from pathlib import Path
from typing import cast

import msgspec

from harness.build import diff
from harness.build.inputs import digest_of
from harness.errors import UsageError

SUFFIXES = (".patch", ".diff", ".eml", ".mbox", ".mail")
_ENVELOPE = re.compile(rb"^From \S+.*\d\d:\d\d.*\d{4}.*$", re.MULTILINE)
_TAG = re.compile(r"\[[^]]*\bPATCH\b([^]]*)\]", re.IGNORECASE)


class Patch(msgspec.Struct, frozen=True):
    """One patch: where it was read from, its subject, and its text with the diff in it."""

    name: str
    subject: str
    text: bytes

    @property
    def number(self) -> tuple[int, int] | None:
        """The re-roll and the number in it, from a subject like ``[PATCH v2 3/7]``."""
        tag = _TAG.search(self.subject)
        if tag is None:
            return None
        place = re.search(r"\b(\d+)/\d+", tag[1])
        roll = re.search(r"\bv(\d+)\b", tag[1])
        return (int(roll[1]) if roll else 1, int(place[1]) if place else 1)


class Series(msgspec.Struct, frozen=True):
    """Patches in the order in which they apply; ``digest`` identifies their content."""

    path: Path | None
    patches: tuple[Patch, ...]

    @property
    def digest(self) -> str:
        """A digest of what the patches change, whatever their files are called."""
        return digest_of(*(patch.text.decode("latin-1") for patch in self.patches))


EMPTY = Series(None, ())


def read(path: Path | None) -> Series:
    """Read a series from a folder, an mbox, or a quilt file ``series*``; None gives an empty one.

    Raises UsageError when there is nothing at ``path``, or nothing in it that is a patch.
    """
    if path is None:
        return EMPTY
    try:
        if path.is_dir():
            quilt = path / "series"
            patches = _read_quilt(quilt) if quilt.is_file() else _read_folder(path)
        elif path.name.split(".")[0] == "series":
            patches = _read_quilt(path)
        else:
            patches = _in_order(_read_file(path))
    except OSError as error:
        raise UsageError(f"cannot read the series {path}: {error}", advice="correct the path") from None
    if not patches:
        raise UsageError(
            f"{path} holds no patch", advice=f"give a folder with {', '.join(SUFFIXES)}, or an mbox"
        )
    return Series(path, tuple(patches))


def _read_quilt(file: Path) -> list[Patch]:
    patches: list[Patch] = []
    for line in file.read_text(encoding="utf-8", errors="replace").splitlines():
        words = line.split("#", 1)[0].split()
        if not words:
            continue
        found = _read_file(file.parent / words[0]) if words[1:] in ([], ["-p1"]) else []
        if not found:
            raise UsageError(
                f"{file}: cannot use the line {line.strip()!r}",
                advice="each line names one file with a patch that applies with -p1",
            )
        patches += found
    return patches


def _read_folder(folder: Path) -> list[Patch]:
    files = sorted(f for f in folder.iterdir() if f.suffix in SUFFIXES and f.is_file())
    return _in_order([patch for file in files for patch in _read_file(file)])


def _in_order(patches: list[Patch]) -> list[Patch]:
    """Sort by the numbers in the subjects when every patch has its own, else keep the order.

    Of several re-rolls in one place the newest is taken.
    """
    numbers = [patch.number for patch in patches]
    if not patches or None in numbers:
        return patches
    pairs = list(zip(cast(list[tuple[int, int]], numbers), patches, strict=True))
    newest = max(number[0] for number, _ in pairs)
    pairs = [pair for pair in pairs if pair[0][0] == newest]
    if len({number for number, _ in pairs}) != len(pairs):
        return [patch for _, patch in pairs]
    return [patch for _, patch in sorted(pairs, key=lambda pair: pair[0])]


def _read_file(file: Path) -> list[Patch]:
    """Read the patches of one file: a plain diff, one mail, or several as an mbox."""
    raw = file.read_bytes()
    starts = [match.start() for match in _ENVELOPE.finditer(raw) if _starts_mail(raw, match)]
    if len(starts) <= 1:
        texts = [raw[starts[0] :] if starts else raw]
    else:
        texts = [raw[a:b] for a, b in zip(starts, [*starts[1:], len(raw)], strict=True)]
    patches = []
    for text in texts:
        subject, body = _unwrap(text)
        if diff.parse(body, str(file)) and not subject.lower().startswith("re:"):
            patches.append(Patch(file.name, subject or file.stem, body))
    return patches


def _starts_mail(raw: bytes, envelope: re.Match[bytes]) -> bool:
    """Say whether headers follow an mbox envelope, so that prose starting "From " does not count."""
    return re.match(rb"\r?\n[A-Za-z-]+:[ \t]", raw[envelope.end() : envelope.end() + 80]) is not None


def _unwrap(text: bytes) -> tuple[str, bytes]:
    """Return a mail's subject and its body with the transfer encoding undone; a diff as it is."""
    if not re.match(rb"(From \S+ .*\r?\n)?([A-Za-z-]+:[ \t].*\r?\n)", text):
        return "", text
    if text.startswith(b"From "):
        text = text.split(b"\n", 1)[1]
    mail = email.message_from_bytes(text, policy=email.policy.default)
    subject = " ".join(str(mail["Subject"] or "").split())
    bodies = [
        cast(bytes, part.get_payload(decode=True))
        for part in mail.walk()
        if part.get_content_maintype() == "text" and part.get_content_subtype() != "html"
    ]
    if not subject or not bodies:
        return "", text
    # Mail ends its lines with CR LF; a diff of a CR LF file would have CR CR LF.
    body = b"\n".join(bodies).replace(b"\r\n", b"\n")
    return subject, re.sub(rb"^>(>*From )", rb"\1", body, flags=re.MULTILINE)
