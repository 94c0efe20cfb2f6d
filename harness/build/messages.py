# SPDX-License-Identifier: MIT
"""What gcc, as, ld, modpost, objtool, Kconfig, sparse and make print about a kernel, as objects.

    reader = Reader()
    for line in log: reader.feed(line)
    reader.messages[0] -> Message(kind="error", tool="gcc", file="kernel/fork.c", line=12, ...)

The reader knows where a message begins and which lines belong to it. make has to be run with
``--output-sync``, or two compilers' lines get mixed.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Iterator
from pathlib import PurePath
from typing import Literal

import msgspec

Tool = Literal["gcc", "as", "ld", "modpost", "objtool", "kconfig", "make", "shell"]

STEP = re.compile(r"  [A-Z][A-Z0-9_+-]+(?: \[M\])? +(\S+)")
"""The line that kbuild prints for a command, and what the command makes."""

NO_ROOM = "No space left on device"
KILLED = re.compile(r"Killed signal|\bKilled$|Error 137$")

_PLACE = re.compile(r"(?P<file>[^\s:]+):(?P<line>\d+):(?:(?P<column>\d+):)? ?(?P<rest>.*)")
_KIND = re.compile(r"(?P<kind>(?:fatal )?error|warning|note): ?(?P<text>.*)", re.IGNORECASE)
_BEFORE = re.compile(
    r"In file included from |                 from |.*: In function |.*: At top level|.*: Assembler messages:"
    r"|(?:\S*ld: )?(?P<object>\S+): in function "
)
_UNDEFINED = re.compile(
    r"(?:\S*ld: )?(?:(?P<file>[^\s:(]+):)?(?:(?P<line>\d+)|\(\S+\)): (?P<text>undefined reference.*)"
)
_MODPOST = re.compile(r"(?P<kind>ERROR|WARNING): modpost: (?P<text>.*)")
_MODULE = re.compile(r"\[(\S+\.k?o)\]|\bin (\S+\.k?o)\b|^(\S+\.k?o): ")
_OBJTOOL = re.compile(r"(?P<file>\S+): (?P<kind>warning|error): objtool: (?P<text>.*)")
_UNMET = re.compile(r"WARNING: (?P<text>unmet (?:direct )?dependencies detected for \w+)")
_MAKE = re.compile(r"(?:make(?:\[\d+\])?|(?P<file>[^\s:]+):(?P<line>\d+)): \*\*\* (?P<text>.*)")
_PROGRAM = re.compile(
    r"(?P<program>[\w./+-]+): (?P<kind>fatal error|error|internal compiler error|warning): (?P<text>.*)"
)
_TROUBLE = re.compile(
    r"(?P<program>[\w./+-]+): (?P<text>.*(?:not found|No such file|cannot |No space left|failed).*)"
)
_CONSEQUENCE = re.compile(
    r"\bError \d+$|^Waiting for unfinished jobs|^Deleting file|^\[|some warnings being treated as errors"
)


class Message(msgspec.Struct, frozen=True):
    """One error or warning. ``lines`` is all that the tool printed about it, its first line included.

    ``file`` is relative to the source tree, "" where the tool names none; ``line`` and ``column``
    count from 1, 0 where it gives none; ``target`` is the file that was being made, "" if unknown.
    """

    kind: Literal["error", "warning"]
    tool: Tool
    text: str
    file: str = ""
    line: int = 0
    column: int = 0
    lines: tuple[str, ...] = ()
    target: str = ""

    def __str__(self) -> str:
        return "\n".join(self.lines)

    @property
    def place(self) -> str:
        """``file:line:column``, as far as known."""
        return ":".join(str(part) for part in (self.file, self.line, self.column) if part)

    @property
    def consequence(self) -> bool:
        """Whether make only says that a command failed, which has told why itself."""
        return self.tool == "make" and _CONSEQUENCE.search(self.text) is not None

    def names(self) -> Iterator[str]:
        """Yield every file that has to do with the message: includes, notes, the source of objects."""
        for line in self.lines:
            yield from re.findall(r"([\w./+-]+):\d+", line)
        for made in (self.file, self.target):
            if made.endswith((".o", ".ko", ".s")):
                yield from (str(PurePath(made).with_suffix(suffix)) for suffix in (".c", ".S"))


class Reader:
    """Takes a log line by line. ``steps`` counts commands, ``targets`` are the files they make."""

    def __init__(self) -> None:
        self.messages: list[Message] = []
        self.targets: list[str] = []
        self._before: list[str] = []
        self._open = False

    @property
    def steps(self) -> int:
        """How many commands were run."""
        return len(self.targets)

    def feed(self, text: str) -> None:
        """Take one line."""
        line = text.rstrip().removeprefix("../").replace(" ../", " ").replace("[../", "[")
        step = STEP.match(text)
        if step:
            self.targets.append(step[1])
            self._before, self._open = [], False
            return
        found = _message(line, self._before)
        if found is not None:
            target = self.targets[-1] if self.targets and found.tool != "make" else ""
            lines = (*self._before, line)
            self.messages.append(msgspec.structs.replace(found, lines=lines, target=target))
            self._before, self._open = [], True
        elif _BEFORE.match(line):
            self._before.append(line)
            self._open = False
        elif self._open and _continues(line, self.messages[-1]):
            last = self.messages[-1]
            self.messages[-1] = msgspec.structs.replace(last, lines=(*last.lines, line))
        else:
            self._open = False


def read(lines: Iterable[str]) -> list[Message]:
    """Return the messages of a whole log."""
    reader = Reader()
    for line in lines:
        reader.feed(line)
    return reader.messages


def errors(messages: Iterable[Message]) -> list[Message]:
    """Return what made a build fail: consequences only where no cause is known."""
    found = [message for message in messages if message.kind == "error"]
    return [message for message in found if not message.consequence] or found


class Warnings(msgspec.Struct, frozen=True):
    """The warnings of a build: those about what the series touches, and the others.

    Mainline builds without any at the default level, so each of the former is the series' own.
    """

    series: tuple[Message, ...] = ()
    others: tuple[Message, ...] = ()

    def lines(self, limit: int = 20) -> list[str]:
        """Say it for people; nothing when there are none."""
        count = len(self.series) + len(self.others)
        if not count:
            return []
        where = f"{len(self.series)} in what the series touches, {len(self.others)} elsewhere"
        shown = [line for message in (*self.series, *self.others)[:limit] for line in message.lines]
        more = [f"... and {count - limit} more: see warnings.json beside the kernel"] if count > limit else []
        return [f"warnings of the build: {where}", *shown, *more]


def split(found: Iterable[Message], touched: Collection[str]) -> Warnings:
    """Tell the series' warnings from others; ``touched`` are the files that it touches."""
    every = [message for message in found if message.kind == "warning"]
    return Warnings(
        tuple(message for message in every if of_series(message, touched)),
        tuple(message for message in every if not of_series(message, touched)),
    )


def of_series(message: Message, touched: Collection[str]) -> bool:
    """Say whether a message is about a file that a series touches, or about no file at all."""
    nowhere = not message.file or message.file.startswith("vmlinux")
    return nowhere or any(name in touched for name in message.names())


def _continues(line: str, message: Message) -> bool:
    """Say whether a line belongs to the message before it: source text, a note, an indented list."""
    if re.match(r"\s+\d* *\|", line) or re.match(r"\s+\S", line):
        return True
    place = _PLACE.match(line)
    return place is not None and (
        place["rest"].startswith("note:")
        or (place["file"] == message.file and place["rest"].startswith("  "))
    )


def _message(line: str, before: list[str]) -> Message | None:
    for pattern, make in _KINDS:
        match = pattern.match(line)
        found = make(match, before) if match else None
        if found is not None:
            return found
    return None


def _located(match: re.Match[str], _: list[str]) -> Message | None:
    """gcc, as, sparse and Kconfig: ``file:line:column: kind: text``."""
    kind = _KIND.match(match["rest"])
    is_kconfig = PurePath(match["file"]).name.startswith(("Kconfig", ".config"))
    if kind is None and not is_kconfig:
        return None
    if kind is not None and kind["kind"].lower() == "note":
        return None
    tool: Tool = "kconfig" if is_kconfig else "as" if kind and kind["kind"][0].isupper() else "gcc"
    return Message(
        "warning" if kind is not None and kind["kind"].lower() == "warning" else "error",
        tool,
        kind["text"] if kind is not None else match["rest"],
        match["file"],
        int(match["line"]),
        int(match["column"] or 0),
    )


def _undefined(match: re.Match[str], before: list[str]) -> Message:
    inside = next((found["object"] for found in map(_BEFORE.match, before) if found and found["object"]), "")
    return Message("error", "ld", match["text"], match["file"] or inside, int(match["line"] or 0))


def _modpost(match: re.Match[str], _: list[str]) -> Message:
    module = _MODULE.search(match["text"])
    file = next((part for part in module.groups() if part), "") if module else ""
    return Message("error" if match["kind"] == "ERROR" else "warning", "modpost", match["text"], file)


def _objtool(match: re.Match[str], _: list[str]) -> Message:
    return Message(
        "warning" if match["kind"] == "warning" else "error", "objtool", match["text"], match["file"]
    )


def _unmet(match: re.Match[str], _: list[str]) -> Message:
    return Message("warning", "kconfig", match["text"])


def _make(match: re.Match[str], _: list[str]) -> Message:
    return Message("error", "make", match["text"], match["file"] or "", int(match["line"] or 0))


def _program(match: re.Match[str], _: list[str]) -> Message | None:
    if _CONSEQUENCE.search(match["text"]):
        return None
    kind = match.groupdict().get("kind", "error")
    tool: Tool = {"ld": "ld", "as": "as", "gcc": "gcc", "cc1": "gcc"}.get(
        PurePath(match["program"]).name.rpartition("-")[2], "shell"
    )  # type: ignore[assignment]
    return Message("warning" if kind == "warning" else "error", tool, match["text"])


_KINDS: tuple[tuple[re.Pattern[str], Callable[[re.Match[str], list[str]], Message | None]], ...] = (
    (_MAKE, _make),
    (_MODPOST, _modpost),
    (_OBJTOOL, _objtool),
    (_UNMET, _unmet),
    (_UNDEFINED, _undefined),
    (_PLACE, _located),
    (_PROGRAM, _program),
    (_TROUBLE, _program),
)
"""Which line begins a message, and what it becomes; the first that takes it decides."""
