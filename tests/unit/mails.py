# SPDX-License-Identifier: MIT
"""Mails and patches for the tests of series, written as mailers and git write them."""

from __future__ import annotations

import base64
import hashlib
import quopri

ENVELOPE = b"From mboxrd@z Thu Jan  1 00:00:00 1970\n"
DATE = "Sun, 22 Nov 2026 04:00:00 +0000"
SENDER = "A Developer <dev@example.org>"


def change(name: str = "a.c", old: str = "two", new: str = "TWO") -> str:
    return (
        f"diff --git a/{name} b/{name}\nindex 0123456789ab..ba9876543210 100644\n"
        f"--- a/{name}\n+++ b/{name}\n@@ -1,3 +1,3 @@ int f(void)\n one\n-{old}\n+{new}\n three\n"
    )


def body(diff: str, prose: str = "Why.\n\nSigned-off-by: A Developer <dev@example.org>") -> str:
    count = diff.count("diff --git")
    files = "1 file" if count == 1 else f"{count} files"
    return (
        f"{prose}\n---\n a.c | 2 +-\n {files} changed, 1 insertion(+), 1 deletion(-)\n\n{diff}-- \n2.47.0\n\n"
    )


def mail(
    subject: str,
    content: str | bytes = "",
    form: str = "plain",
    *,
    sender: str = SENDER,
    headers: str = "",
    message_id: str = "",
) -> bytes:
    """One mail. ``form`` is how its body is carried: plain, qp, base64, multipart, attached or crlf."""
    raw = content.encode() if isinstance(content, str) else content
    name = message_id or f"{hashlib.sha256(subject.encode() + raw).hexdigest()[:20]}@example.org"
    head = f"From: {sender}\nDate: {DATE}\nSubject: {subject}\nMessage-ID: <{name}>\n{headers}"
    text = "MIME-Version: 1.0\nContent-Type: text/plain; charset=utf-8\nContent-Transfer-Encoding: "
    if form == "plain":
        return f"{head}{text}8bit\n\n".encode() + raw
    if form == "crlf":
        return (f"{head}{text}8bit\n\n".encode() + raw).replace(b"\n", b"\r\n")
    if form == "qp":
        return f"{head}{text}quoted-printable\n\n".encode() + quopri.encodestring(raw)
    if form == "base64":
        return f"{head}{text}base64\n\n".encode() + base64.encodebytes(raw.replace(b"\n", b"\r\n"))
    if form == "multipart":
        alternative = b"<html><pre>" + raw + b"</pre></html>"
        parts = ((b"text/plain; charset=utf-8", raw), (b"text/html; charset=utf-8", alternative))
        return _parts(head, "alternative", parts)
    assert form == "attached"
    parts = ((b"text/plain", b"See there.\n"), (b'text/x-patch; name="x.patch"', raw))
    return _parts(head, "mixed", parts)


def _parts(head: str, kind: str, parts: tuple[tuple[bytes, bytes], ...]) -> bytes:
    top = f'{head}MIME-Version: 1.0\nContent-Type: multipart/{kind}; boundary="=-=b"\n\n'.encode()
    made = b"".join(
        b"--=-=b\nContent-Type: "
        + kind
        + b"\nContent-Transfer-Encoding: base64\n\n"
        + base64.encodebytes(raw)
        for kind, raw in parts
    )
    return top + made + b"--=-=b--\n"


def box(*mails: bytes) -> bytes:
    """An mbox."""
    return b"".join(ENVELOPE + one.replace(b"\r\n", b"\n") + b"\n" for one in mails)


def whole(count: int, roll: str = "", **options: str) -> list[bytes]:
    """The mails of a series of ``count`` patches, each to a file of its own."""
    return [
        mail(f"[PATCH{roll} {n}/{count}] part {n}", body(change(f"f{n}.c")), **options)
        for n in range(1, count + 1)
    ]
