# SPDX-License-Identifier: MIT
"""Messages out of files: a plain diff, a mail as saved from a list, or an mbox of several.

Transfer encodings, MIME parts and the line ends of mail are undone here; the bytes of a diff stay as
they were sent (git does the same), since source files declare no character set.
"""

from __future__ import annotations

import contextlib
import email
import email.errors
import email.header
import gzip
import re
import zlib
from email.message import Message as Part
from pathlib import Path
from typing import cast

import msgspec

from harness.build import diff
from harness.errors import HarnessError, UsageError

LIMIT = 512 << 20
"""Bytes of one file, unpacked, that are read at most."""

WORDS = 1000
"""Characters of a header that are kept."""

_ENVELOPE = re.compile(
    rb"^From \S{1,999} {1,3}\w{3} {1,3}\w{3} {1,3}\d{1,2} \d\d:\d\d[^\n]{0,99}\n"
    rb"(?=[A-Za-z][A-Za-z0-9-]{0,99}:)",
    re.MULTILINE,
)
_HEADERS = re.compile(rb"[A-Za-z][A-Za-z0-9-]{0,99}:[ \t]?[^\n]*\n")
_DIFF = re.compile(rb"^(?:diff --git |--- [^\n]{1,4096}\n\+\+\+ |@@ -\d+(?:,\d+)? \+\d+)", re.MULTILINE)
_START = re.compile(rb"^(?:diff --git |--- [^\n]{1,4096}\n\+\+\+ )", re.MULTILINE)
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")


class Message(msgspec.Struct, frozen=True):
    """One mail, or one plain diff: then ``mail`` is False and most fields are empty.

    ``author`` wrote the change, ``sender`` sent it. ``problem`` says why a diff in here cannot be
    used although it looks like one.
    """

    name: str
    subject: str
    body: bytes
    author: str = ""
    sender: str = ""
    message_id: str = ""
    problem: str = ""
    mail: bool = False

    @property
    def has_diff(self) -> bool:
        """Whether anything in the body looks like a diff, sound or not."""
        return _DIFF.search(self.body) is not None

    @property
    def changes(self) -> bytes:
        """The body without what is said before the diff, and without the signature behind it."""
        start = _START.search(self.body)
        text = self.body[start.start() :] if start else self.body
        cut = text.rfind(b"\n-- \n") + 1
        # In a hunk, "-- " takes away a line: then the diff is another without it.
        return text[:cut] if cut and _parsed(text[:cut]) == _parsed(text) else text


def _parsed(text: bytes) -> tuple[diff.FileDiff, ...] | None:
    try:
        return diff.parse(text, "")
    except HarnessError:
        return None


def read_file(file: Path) -> list[Message]:
    """Read the messages in ``file``, in its order.

    Raises UsageError for a file that is no text, and OSError.
    """
    if file.stat().st_size > LIMIT:
        raise UsageError(f"{file} is larger than {LIMIT >> 20} MB", advice="give the series alone")
    raw = file.read_bytes()
    if raw.startswith(b"\x1f\x8b"):
        raw = _unpacked(raw, file)
    if raw.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise UsageError(
            f"{file} is UTF-16, and patches are bytes",
            advice=f"convert it: iconv -f UTF-16 -t UTF-8 {file.name} | tr -d '\\r' > new.patch",
        )
    return split(raw.removeprefix(b"\xef\xbb\xbf"), file.name)


def _unpacked(raw: bytes, file: Path) -> bytes:
    inflate = zlib.decompressobj(wbits=31)
    try:
        unpacked = inflate.decompress(raw, LIMIT)
    except zlib.error as error:
        raise UsageError(f"{file} is damaged: {error}", advice="fetch it again") from None
    if not inflate.eof or inflate.unused_data:
        # Several members, or cut off: gzip tells which, and the size is known to be sane.
        if len(unpacked) >= LIMIT:
            raise UsageError(f"{file} unpacks to more than {LIMIT >> 20} MB", advice="give the series alone")
        try:
            return gzip.decompress(raw)
        except (EOFError, OSError, zlib.error) as error:
            raise UsageError(f"{file} is damaged: {error}", advice="fetch it again") from None
    return unpacked


def split(raw: bytes, name: str) -> list[Message]:
    """Read the messages in the bytes of a file called ``name``."""
    raw = raw.lstrip(b"\r\n")
    text = raw.replace(b"\r\n", b"\n") if _transported(raw) else raw
    starts = [match.start() for match in _ENVELOPE.finditer(text) if _is_border(text, match.start())]
    if not starts:
        return _message(text, name)
    ends = [*starts[1:], len(text)]
    found: list[Message] = []
    for number, (start, end) in enumerate(zip(starts, ends, strict=True), 1):
        mail = text[text.index(b"\n", start) + 1 : end]
        found += _message(mail, name if len(starts) == 1 else f"{name}, mail {number}")
    return found


def _is_border(text: bytes, start: int) -> bool:
    return start == 0 or text[start - 2 : start] == b"\n\n" or not text[:start].strip()


def _transported(text: bytes) -> bool:
    """Say whether lines end with CR LF because mail does; a diff of a CR LF file has it in places."""
    heads = re.findall(rb"^(?:diff --git |\+\+\+ |@@ -\d|Subject:)[^\n]*$", text, re.MULTILINE)
    return bool(heads) and all(head.endswith(b"\r") for head in heads)


def _message(text: bytes, name: str) -> list[Message]:
    """Read one mail, with the mails that are attached to it; or a plain diff, as it is."""
    plain = [Message(name, "", text, problem=_nul(text))]
    if not _HEADERS.match(text):
        return plain
    try:
        mail = email.message_from_bytes(text)
        if "Subject" not in mail:
            return plain
        return _from_mail(mail, name)
    except RecursionError:
        return [Message(name, "", b"", problem="has MIME parts nested too deep to read", mail=True)]


def _from_mail(mail: Part, name: str) -> list[Message]:
    attached: list[Message] = []
    bodies: list[bytes] = []
    problem = ""
    for part in mail.walk():
        if part.is_multipart() or not _is_text(part):
            continue
        body = _decoded(part)
        if str(part.get_param("format", "")).lower() == "flowed" and _DIFF.search(body):
            problem = "was sent as format=flowed, which breaks lines anew: its diff cannot be trusted"
        if part.get_filename() and _HEADERS.match(re.sub(rb"\AFrom [^\n]*\n", b"", body)):
            inner = split(body, f"{name}, {_words(part.get_filename())}")
            if all(message.mail for message in inner):
                attached += inner
                continue
        if body not in bodies:
            bodies.append(body)
    body = b"\n".join(bodies)
    if not bodies and not attached:
        problem = "is HTML only" if _has_html(mail) else "has no part with text"
    sender = _words(mail["From"])
    told = re.match(rb"\s*From: ([^\n]{1,999}<[^\n>]{1,999}>)[ \t]*\n", body)
    message = Message(
        name,
        _words(mail["Subject"]),
        body,
        author=_words(told[1].decode(errors="replace")) if told else sender,
        sender=sender,
        message_id=_words(mail["Message-ID"]).strip("<>"),
        problem=problem or _nul(body),
        mail=True,
    )
    # A mail that only carries patches as attachments stands for nothing itself.
    return attached if attached and not message.has_diff else [message, *attached]


def _is_text(part: Part) -> bool:
    kind, name = part.get_content_type(), str(part.get_filename() or "").lower()
    return name.endswith((".patch", ".diff")) or (
        kind != "text/html" and (kind.startswith("text/") or kind in ("application/x-patch",))
    )


def _has_html(mail: Part) -> bool:
    return any(part.get_content_type() == "text/html" for part in mail.walk())


def _decoded(part: Part) -> bytes:
    """Return a part's bytes. Only a character set in which ASCII is not ASCII is converted."""
    body = cast(bytes, part.get_payload(decode=True) or b"")
    charset = str(part.get_content_charset() or "").lower()
    if charset.startswith(("utf-16", "utf-32", "utf-7")):
        try:
            body = body.decode(charset).encode()
        except (UnicodeDecodeError, LookupError):
            return body
    return body.replace(b"\r\n", b"\n") if _transported(body) else body


def _words(header: object) -> str:
    """Return a header's text for people: encoded words decoded, one line, nothing that moves a cursor."""
    text = str(header or "")[:WORDS]
    with contextlib.suppress(ValueError, LookupError, email.errors.MessageError):
        text = str(email.header.make_header(email.header.decode_header(text)))
    text = text.encode("utf-8", "replace").decode()
    return _CONTROL.sub("", " ".join(text.split()))


def _nul(body: bytes) -> str:
    return "holds NUL bytes: it was damaged on its way, or is no text" if b"\0" in body else ""
