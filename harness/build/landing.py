# SPDX-License-Identifier: MIT
"""Whether a hunk landed in the function or structure of C that its ``@@`` line names.

With fuzz a hunk may find room anywhere, and even an exact match of a few common lines may stand in
another function. The ``@@`` line names the last declaration *above* the hunk's first line, which for
a hunk between functions is only a neighbour and may rightly be another one. So two things are
compared: that name, and whether the change stands inside a body or between bodies, as far as
the hunk's own lines tell. What is no C has no such sections.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from harness.build.diff import Hunk
from harness.build.place import Place

SUFFIXES = (".c", ".h")

CUT = 40
"""Bytes at which GNU diff cuts the ``@@`` line's section; git does at 80."""

LONGEST = 5000
"""Lines that a body may have; in longer ones it is not told whether a line is inside."""

# git's rule for C: what begins in the first column, other than a label.
_DECLARATION = re.compile(rb"^[A-Za-z_$]")
_LABEL = re.compile(rb"^[ \t]*[A-Za-z_]\w*:\s*($|/[/*])")
_MACRO = re.compile(rb"^[^(]*?\b([A-Z][A-Z0-9_]*)\s*\(\s*(\w+)")
_COMMENT = re.compile(rb"^\s*(/\*|\*|//)")


@dataclass(frozen=True)
class Scope:
    """What encloses a line: the declaration above it, and whether the line is inside its body.

    ``inside`` is None where that cannot be told.
    """

    declaration: bytes
    inside: bool | None

    @property
    def name(self) -> bytes:
        """What the declaration declares."""
        return _name(self.declaration)

    def __str__(self) -> str:
        text = self.name.decode(errors="replace")
        if not text:
            return "the top of the file"
        return text if self.inside is not False else f"file scope, behind {text}"


class Sections:
    """The declarations of one file as it is before a patch, and the scopes that they make."""

    def __init__(self, path: str, lines: Sequence[bytes]) -> None:
        self._is_c = path.endswith(SUFFIXES)
        self._lines = lines

    @cached_property
    def _starts(self) -> list[int]:
        return [n for n, line in enumerate(self._lines) if _is_declaration(line)]

    @cached_property
    def _names(self) -> dict[bytes, int]:
        """Where each name is declared first."""
        return {_name(self._lines[n]): n for n in reversed(self._starts)}

    def scope(self, at: int) -> Scope:
        """Return the scope in which the line with index ``at`` stands."""
        above = bisect_left(self._starts, at) - 1
        if above < 0:
            return Scope(b"", False)
        start = self._starts[above]
        if at - start > LONGEST:
            return Scope(self._lines[start], None)
        return Scope(self._lines[start], _is_open(self._lines[start:at]))

    def check(self, hunk: Hunk, place: Place) -> str:
        """Say why a hunk that fits at ``place`` is in the wrong place; "" if it is not."""
        held = _held(hunk, place)
        in_macro = any(line.rstrip().endswith(b"\\") for line in hunk.old)
        if not self._is_c or (held and (in_macro or not hunk.section)):
            return ""
        found = self.scope(place.at + hunk.lead)
        meant = _meant(hunk)
        if _same(meant.declaration, found.declaration):
            wrong = (
                place.fuzz > 0 and None not in (meant.inside, found.inside) and meant.inside != found.inside
            )
        elif meant.inside is not True and found.inside is False:
            # Between bodies the neighbours may differ, unless nothing at all holds the hunk there.
            wrong = not held
        elif place.fuzz:
            wrong = True
        else:
            # All its lines are here. It is misplaced if they are in a body, do not themselves say in
            # which, and the one that the patch names is elsewhere; else that one was renamed.
            own = _decisive(hunk.old[: hunk.lead])
            wrong = bool(found.inside) and not own and _name(meant.declaration) in self._names
        if not wrong:
            return ""
        start = self._names.get(meant.name)
        where = "is not in this file" if start is None else f"begins at line {start + 1}"
        there = "" if meant.inside is False else f", which {where}"
        return f"landed in {found}, at line {place.at + hunk.lead + 1}; the patch means {meant}{there}"


def _meant(hunk: Hunk) -> Scope:
    """Return the scope in which a hunk's first change stands for its author."""
    section = hunk.section.encode(errors="replace")
    context = hunk.old[: hunk.lead]
    own = [n for n, line in enumerate(context) if _is_declaration(line)]
    if own:
        return Scope(context[own[-1]], _is_open(context[own[-1] :]))
    if any(line[:1] == b"}" for line in context):
        return Scope(section, False)
    return Scope(section, _told_inside(section, hunk))


def _is_open(lines: Sequence[bytes]) -> bool:
    """Say whether the declaration that ``lines`` begin with is unfinished or its body open behind them."""
    opened = False
    depth = 0
    for line in lines:
        if opened and line.startswith(b"}"):
            return False
        if opened or _COMMENT.match(line) or line.startswith(b"#"):
            continue
        code = re.sub(rb'"(\\.|[^"\\])*"|/\*.*?\*/|//.*', b"", line)
        depth += code.count(b"(") - code.count(b")")
        if b"{" in code:
            opened = True
            if code.count(b"{") == code.count(b"}"):
                return False
        elif depth <= 0 and (code.rstrip().endswith(b";") or _is_call(code, lines[0])):
            return False
    return True


def _is_call(code: bytes, first: bytes) -> bool:
    """Say whether a declaration is a macro's call without a semicolon, that has no body."""
    return (
        code == first and re.match(rb"^[A-Z][A-Z0-9_]*\(.*\)\s*$", code) is not None and b"DEFINE" not in code
    )


def _told_inside(section: bytes, hunk: Hunk) -> bool | None:
    """Say whether a hunk is inside its section, by the section's end and the hunk's other lines."""
    if not section or section.endswith(b";"):
        return False
    if section.endswith(b"{"):
        return True
    near = [line[1:] for line in hunk.lines if line[:1] != b"+"]
    code = [
        line
        for line in near[: hunk.lead + 1]
        if line[:1] in (b"\t", b" ") and line.strip() and not _COMMENT.match(line)
    ]
    if not code or any(line.rstrip().endswith(b"\\") for line in near):
        return None
    return True if all(line.startswith((b"\t", b"#", b"\n")) for line in near[: hunk.lead]) else None


def _decisive(lines: Sequence[bytes]) -> list[bytes]:
    """Return the lines that by themselves tell what encloses those that follow."""
    return [line for line in lines if line[:1] in (b"{", b"}") or _is_declaration(line)]


def _is_declaration(line: bytes) -> bool:
    return _DECLARATION.match(line) is not None and _LABEL.match(line) is None


def _held(hunk: Hunk, place: Place) -> bool:
    """Say whether any line that is not blank was found in the file where the hunk was put."""
    old = hunk.old
    return any(line.strip() for line in old[place.lead : len(old) - place.trail])


def _same(one: bytes, other: bytes) -> bool:
    """Say whether two declarations declare the same; a section may have been cut short."""
    one, other = one.strip(), other.strip()
    if one == other or _name(one) == _name(other):
        return True
    return len(one) >= CUT and other.startswith(one)


def _name(declaration: bytes) -> bytes:
    """Return the name in a declaration's first line: of a function, structure, variable, or macro call."""
    text = declaration.strip()
    macro = _MACRO.match(text)
    if macro:
        return macro[1] + b"(" + macro[2]
    kind = re.match(rb"^(?:typedef\s+)?(struct|union|enum)\s+(\w+)\s*(?:\{.*)?$", text)
    if kind:
        return kind[1] + b" " + kind[2]
    name = re.search(rb"(\w+)\s*(?:\(|(?:\[[^]]*\]\s*)*(?:__\w+\s*)*(?:[=;,{]|$))", text)
    return name[1] if name else text
