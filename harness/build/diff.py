# SPDX-License-Identifier: MIT
"""Unified diffs, taken apart: the one reader of patches, so nothing is applied that was not checked.

Plain ``diff -u`` and git's format are read. What a kernel tree does not need and could harm one is
refused: paths out of the tree or into the harness's own files, symbolic links, binary content.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

from harness.errors import HarnessError

PATH_LIMIT = 4000
"""Bytes that the path of a file may have; the kernel takes 4096 for the whole of it."""

CUT_OFF = b"\0cut off"
"""Marks a last line without a line feed: a hunk that ends in one may have lost the rest of it."""

_HUNK = re.compile(rb"^@@ -(\d{1,9})(?:,(\d{1,9}))? \+(\d{1,9})(?:,(\d{1,9}))? @@(.*)$", re.DOTALL)
_EXTENDED = re.compile(
    rb"^(?:(old mode|new mode|new file mode|deleted file mode|rename from|rename to|copy from|copy to)"
    rb" (.+)|(?:similarity|dissimilarity) index .*|index [0-9a-f]+\.\..*)$",
    re.DOTALL,
)
_BINARY = re.compile(rb"^(GIT binary patch|Binary files .* differ)\r?$")
_EPOCH = re.compile(rb"\t(1970-01-01|1969-12-31) ")
_ESCAPE = re.compile(rb"\\([0-7]{3}|.)")
_LETTERS = {b"a": b"\a", b"b": b"\b", b"f": b"\f", b"n": b"\n", b"r": b"\r", b"t": b"\t", b"v": b"\v"}
_EMPTY = b"e69de29bb2d1d6434b8b29ae775ad8c2e48c5391"  # what git calls a file with nothing in it
_MODES = {b"100644": 0o644, b"100755": 0o755}
_ADVICE = "save the mail unchanged (raw), or fetch the series with b4"


@dataclass(frozen=True)
class Hunk:
    """One hunk. ``lines`` begin with b" ", b"-" or b"+" and keep their line end, if they have one.

    ``start`` is the line, from 1, where the old lines are said to be (before which an empty old
    side stands: 0 is the top); ``section`` is what follows the second ``@@``.
    """

    start: int
    section: str
    lines: tuple[bytes, ...]

    @property
    def old(self) -> list[bytes]:
        """The lines that the hunk expects."""
        return [line[1:] for line in self.lines if line[:1] != b"+"]

    @property
    def lead(self) -> int:
        """How many lines of context stand before the first change."""
        return next((n for n, line in enumerate(self.lines) if line[:1] != b" "), len(self.lines))

    @property
    def trail(self) -> int:
        """How many lines of context stand behind the last change."""
        return next((n for n, line in enumerate(reversed(self.lines)) if line[:1] != b" "), 0)


@dataclass(frozen=True)
class FileDiff:
    """One file's part of a patch. ``old`` or ``new`` is None for a file that comes or goes.

    ``origin`` is ``rename`` or ``copy`` when the new file is to be made from the old one, else "".
    ``mode`` holds the permissions that the file gets, None for those it has.
    """

    old: str | None
    new: str | None
    hunks: tuple[Hunk, ...] = ()
    origin: str = ""
    mode: int | None = None

    @property
    def path(self) -> str:
        """The path that the file has, or had if it goes."""
        return self.new or self.old or "?"


def parse(text: bytes, name: str) -> tuple[FileDiff, ...]:
    """Take the diffs in a patch apart; prose around them is skipped.

    ``name`` is the patch's, for messages. Raises HarnessError for what is damaged, refused or
    understood in no safe way.
    """
    lines = text.split(b"\n")
    if lines[-1] == b"":
        lines.pop()
    else:
        lines[-1] += CUT_OFF
    found: list[FileDiff] = []
    at = 0
    while at < len(lines):
        telling = False
        begin = at
        if lines[at].startswith(b"diff --git "):
            at, file, telling = _git_header(lines, at, name)
        elif _is_header(lines, at):
            file = FileDiff(None, None)
        elif lines[at].startswith((b"diff --cc ", b"diff --combined ")):
            raise HarnessError(f"{name} is the diff of a merge", advice="give the commits that it merged")
        else:
            at += 1
            continue
        header, stripped = lines[begin:at], False
        if _is_header(lines, at):
            # A rename names its files already; a file that comes or goes is /dev/null here.
            if not file.origin:
                file = replace(file, old=_header_path(lines[at], name), new=_header_path(lines[at + 1], name))
            stripped = lines[at].endswith(b"\r") and lines[at + 1].endswith(b"\r")
            at += 2
        hunks: list[Hunk] = []
        while at < len(lines) and lines[at].startswith(b"@@ "):
            at, hunk = _hunk(lines, at, f"{name}: {file.path}", stripped)
            hunks.append(hunk)
        if not hunks and header and not _may_end(header, last=at >= len(lines) - lines[-1].endswith(CUT_OFF)):
            raise HarnessError(f"{name}: {file.path} is damaged: its hunks are missing", advice=_ADVICE)
        if hunks or telling:
            found.append(_checked(replace(file, hunks=tuple(hunks)), name))
    return tuple(found)


def _is_header(lines: list[bytes], at: int) -> bool:
    return at + 1 < len(lines) and lines[at].startswith(b"--- ") and lines[at + 1].startswith(b"+++ ")


def _git_header(lines: list[bytes], at: int, name: str) -> tuple[int, FileDiff, bool]:
    """Read ``diff --git`` and what git adds to it; say whether that alone changes something."""
    said: dict[bytes, bytes] = {}
    same = _same_path(lines[at][len(b"diff --git ") :].rstrip(b"\r"))
    at += 1
    while at < len(lines) and (match := _EXTENDED.match(lines[at].rstrip(b"\r"))):
        if match[1]:
            said[match[1]] = match[2]
        at += 1
    if at < len(lines) and _BINARY.match(lines[at]):
        raise HarnessError(
            f"{name} changes {_path(same or b'a file', name)} in binary form, which is not applied here",
            advice="put such files into the base, and leave them out of the series",
        )
    mode = None
    for key in (b"old mode", b"new mode", b"new file mode", b"deleted file mode"):
        if key in said:
            if said[key] not in _MODES:
                raise HarnessError(
                    f"{name} gives a file the mode {said[key].decode(errors='replace')}: "
                    "only regular files are changed, no symbolic links and no submodules",
                    advice="put such files into the base, and leave them out of the series",
                )
            mode = None if key in (b"old mode", b"deleted file mode") else _MODES[said[key]]
    for origin in ("rename", "copy"):
        ends = [said[key] for key in (f"{origin} {end}".encode() for end in ("from", "to")) if key in said]
        if len(ends) == 2:
            old_path, new_path = (_path(_unquoted(end), name) for end in ends)
            return at, FileDiff(old_path, new_path, (), origin, mode), True
    if same is None:
        return at, FileDiff(None, None, (), "", mode), False
    path = _path(same, name)
    old = None if b"new file mode" in said else path
    new = None if b"deleted file mode" in said else path
    return at, FileDiff(old, new, (), "", mode), bool(said)


def _may_end(header: list[bytes], *, last: bool) -> bool:
    """Say whether git prints these lines before a file without hunks. ``last``: nothing follows them."""
    said = b"\n".join(header[1:])
    if blobs := re.search(rb"^index ([0-9a-f]+)\.\.([0-9a-f]+)", said, re.MULTILINE):
        return any(_EMPTY.startswith(blob) for blob in blobs.groups())
    if b"similarity index" in said:
        return b"similarity index 100%" in said and b" to " in said
    if b"old mode" in said:
        return b"new mode" in said
    return not last or b"rename to" in said or b"copy to" in said


def _same_path(names: bytes) -> bytes | None:
    """Return the path in ``a/PATH b/PATH``, where spaces may be part of it; None if they differ."""
    if names.startswith(b'"'):
        end = re.match(rb'"(?:[^"\\]|\\.)*"', names)
        return _stripped(_unquoted(end[0])) if end else None
    half = len(names) // 2
    old, new = _stripped(names[:half]), _stripped(names[half + 1 :])
    return old if old == new and names[half : half + 1] == b" " else None


def _header_path(line: bytes, name: str) -> str | None:
    """Return the path in a ``---`` or ``+++`` line, None when it says that there is no file."""
    raw = line[4:].rstrip(b"\r")
    path = raw if raw.startswith(b'"') else raw.split(b"\t")[0].rstrip()
    if path == b"/dev/null" or _EPOCH.search(raw):
        return None
    return _path(_stripped(_unquoted(path)), name)


def _unquoted(path: bytes) -> bytes:
    """Undo git's quoting of unusual names."""
    if not (path.startswith(b'"') and path.count(b'"') > 1):
        return path
    inner = path[1 : path.rindex(b'"')]
    return _ESCAPE.sub(
        lambda m: bytes([int(m[1], 8) & 0xFF]) if len(m[1]) == 3 else _LETTERS.get(m[1], m[1]), inner
    )


def _stripped(path: bytes) -> bytes:
    """Drop the first component (``a/`` or ``b/``), as ``patch -p1`` does."""
    return path if path.startswith(b"/") else path.split(b"/", 1)[-1]


def _path(raw: bytes, name: str) -> str:
    """Return a path as text, if it is one inside the source that a patch may change."""
    shown = raw[:200].decode(errors="backslashreplace")
    parts = raw.split(b"/")
    if raw.startswith(b"/") or b".." in parts:
        why = f"{name} changes {shown}, which is outside the source"
    elif any(part.lower() == b".git" for part in parts):
        why = f"{name} changes {shown}, which belongs to git"
    elif parts[0].startswith(b"mkharness-") or parts[-1].endswith(b".mkharness"):
        why = f"{name} changes {shown}, which belongs to mkharness"
    elif b"" in parts or b"." in parts or len(raw) > PATH_LIMIT or max(map(len, parts)) > 240:
        why = f"{name} changes {shown}, which is no path of a file"
    elif any(byte < 0x20 or byte == 0x7F for byte in raw) or not _is_text(raw):
        why = f"{name} changes {shown!r}, a name with control characters or not in UTF-8"
    else:
        return raw.decode()
    raise HarnessError(why, advice="do not use it before you know who made it, and why")


def _is_text(raw: bytes) -> bool:
    try:
        raw.decode()
    except UnicodeDecodeError:
        return False
    return True


def _hunk(lines: list[bytes], at: int, where: str, stripped: bool) -> tuple[int, Hunk]:
    """Read one hunk; ``stripped``: the whole patch has CR LF line ends, which are not the file's."""
    match = _HUNK.match(lines[at])
    if match is None:
        raise HarnessError(f"{where}: line {at + 1} begins with @@ and is no hunk", advice=_ADVICE)
    start, old, _, new = (int(number) if number is not None else 1 for number in match.groups()[:4])
    kept: list[bytes] = []
    header = lines[at][:80].decode(errors="replace")
    at += 1
    while old > 0 or new > 0 or (at < len(lines) and lines[at].startswith(b"\\")):
        line = lines[at] if at < len(lines) else b"?"
        kind = line.rstrip(b"\r")[:1] or b" "  # mailers strip the blank of an empty context line
        if kind == b"\\" and kept:
            kept[-1] = kept[-1].removesuffix(b"\n")
        else:
            old -= kind in b" -"
            new -= kind in b" +"
            if kind not in b" -+" or old < 0 or new < 0 or line.endswith(CUT_OFF):
                raise HarnessError(f"{where}: the hunk {header} is damaged at line {at + 1}", advice=_ADVICE)
            content = line[1:] if line[:1] == kind else line
            kept.append(kind + (content.removesuffix(b"\r") if stripped else content) + b"\n")
        at += 1
    after = lines[at] if at < len(lines) else b""
    if after.startswith((b"+", b"-", b" ")) and not after.startswith(b"--"):
        raise HarnessError(
            f"{where}: the hunk {header} has more lines than it says, at line {at + 1}", advice=_ADVICE
        )
    return at, Hunk(start, match[5].decode(errors="replace").strip(), tuple(kept))


def _checked(file: FileDiff, name: str) -> FileDiff:
    """Return a file's diff if it makes sense as a whole."""
    if file.old is None and file.new is None:
        raise HarnessError(f"{name} changes a file without a name", advice=_ADVICE)
    if file.old is None and any(hunk.old for hunk in file.hunks):
        raise HarnessError(f"{name} makes {file.new} new and expects lines in it", advice=_ADVICE)
    return file
