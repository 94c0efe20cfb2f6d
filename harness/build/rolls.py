# SPDX-License-Identifier: MIT
"""Which of many mails make the series: the newest re-roll, in the order of its numbers.

Nothing is guessed: what cannot be decided is a problem that is told, and what is left out is told
with the reason.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from email.utils import parseaddr

import msgspec

from harness.build.mail import Message

_TAGS = re.compile(r"(?:\[[^\]]{0,200}\]\s*)+")
_REPLY = re.compile(r"(?:\[[^\]]{0,200}\]\s*)*(?:re|aw|sv|antw|fw|fwd)\s*(?:\[\d+\])?:", re.IGNORECASE)
_PLACE = re.compile(r"(?<![\d.])(\d{1,5})\s?/\s?(\d{1,5})(?![\d.])")
_ROLL = re.compile(r"(?:\b|PATCH|RFC)v\s?(\d{1,4})(?:\.(\d{1,4}))?\b", re.IGNORECASE)
_FILE = re.compile(rb"^\+\+\+ [^/\s]+/(\S+)", re.MULTILINE)


class Tag(msgspec.Struct, frozen=True):
    """What a subject like ``[RFC PATCH v2 03/16] title`` says. ``number`` is None without ``03/16``."""

    title: str
    roll: tuple[int, int]
    number: int | None
    total: int


class LeftOut(msgspec.Struct, frozen=True):
    """A message that is no part of the series: where it was, its subject, and why."""

    name: str
    subject: str
    why: str


class Choice(msgspec.Struct, frozen=True):
    """The messages of the series in order, and what there is to tell about how they were chosen.

    ``missing`` are numbers of which there should be a patch; ``total`` is what the subjects say,
    0 when they say nothing. ``cover`` is the cover letter of what was chosen.
    """

    messages: tuple[Message, ...]
    left_out: tuple[LeftOut, ...] = ()
    missing: tuple[int, ...] = ()
    total: int = 0
    problems: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    cover: Message | None = None


def is_reply(subject: str) -> bool:
    """Say whether a subject is that of a reply."""
    return _REPLY.match(subject) is not None


def tag(subject: str) -> Tag | None:
    """Read the brackets before a subject; None when they are not those of a patch."""
    brackets = _TAGS.match(subject)
    if brackets is None:
        return None
    place, roll = _PLACE.search(brackets[0]), _ROLL.search(brackets[0])
    if not place and not re.search("PATCH|RFC", brackets[0], re.IGNORECASE):
        return None
    return Tag(
        subject[brackets.end() :],
        (int(roll[1]), int(roll[2] or 0)) if roll else (1, 0),
        int(place[1]) if place else None,
        int(place[2]) if place else 0,
    )


def choose(messages: Iterable[Message]) -> Choice:
    """Choose the series among messages from files or mails, in any order.

    Without numbers in the subjects the order is that of ``messages``.
    """
    left: list[LeftOut] = []

    def out(message: Message, why: str) -> None:
        left.append(LeftOut(message.name, message.subject, why))

    numbered: list[tuple[Tag, Message]] = []
    others: list[tuple[Tag | None, Message]] = []
    for message in messages:
        found = tag(message.subject)
        if is_reply(message.subject):
            out(message, "a reply")
        elif found is not None and found.number is not None:
            numbered.append((found, message))
        elif message.has_diff:
            others.append((found, message))
        else:
            out(message, message.problem or "no diff in it")
    if not numbered:
        return _unnumbered(others, left, out)
    problems = []
    for _, message in others:
        if message.mail:
            out(message, "has no number beside patches that have one")
        else:
            problems.append(
                f"{message.name} has no number beside patches that have one: where does it belong? "
                "A file named `series` with one file name a line says so"
            )
    return _numbered(numbered, left, out, problems)


def _unnumbered(
    others: Sequence[tuple[Tag | None, Message]], left: list[LeftOut], out: Callable[[Message, str], None]
) -> Choice:
    """Choose among single patches: of several re-rolls of one title, the newest."""
    newest: dict[str, tuple[int, int]] = {}
    for found, _ in others:
        if found is not None:
            newest[found.title] = max(found.roll, newest.get(found.title, (0, 0)))
    chosen: list[Message] = []
    for found, message in others:
        same = next((other for other in chosen if other.changes == message.changes), None)
        if found is None and message.mail and newest:
            out(message, "has no [PATCH] in its subject, as others have")
        elif found is not None and found.roll < newest[found.title]:
            out(message, f"{_v(found.roll)}; {_v(newest[found.title])} is newer")
        elif same is not None and message.mail:
            out(message, f"the same as {same.name}")
        else:
            chosen.append(message)
    titles = Counter(found.title for found, message in others if found is not None and message in chosen)
    problems = [
        f"{count} different patches are called {title!r}" for title, count in titles.items() if count > 1
    ]
    rolls = {newest[title] for title in titles}
    if len(rolls) > 1:
        problems.append(
            f"patches without numbers are of {' and '.join(map(_v, sorted(rolls)))}: {_told(chosen)}"
        )
    notes = ("no subject has a number: the order is that of the files",) if len(chosen) > 1 else ()
    return Choice(tuple(chosen), tuple(left), problems=(*problems, *unusable(chosen)), notes=notes)


def _numbered(
    numbered: Sequence[tuple[Tag, Message]],
    left: list[LeftOut],
    out: Callable[[Message, str], None],
    problems: list[str],
) -> Choice:
    """Choose among parts of series: those of the newest re-roll that has a patch."""
    rolls = sorted({found.roll for found, message in numbered if found.number and message.has_diff})
    newest = rolls[-1] if rolls else (0, 0)
    mine = [(found, message) for found, message in numbered if found.roll == newest]
    for found, message in numbered:
        if found.roll < newest:
            out(message, f"{_v(found.roll)}; {_v(newest)} is newer")
        elif found.roll > newest:
            out(message, message.problem or "no diff in it")
    places = _places(mine, out)
    problems += _strangers(numbered, newest)
    problems += [
        f"several different patches have number {number} in {_v(newest)}: {_told(several)}"
        for number, several in places.items()
        if len(several) > 1
    ]
    totals = {found.total: message for found, message in mine}
    if len(totals) > 1:
        problems.append(
            f"{_v(newest)} is said to have {' and '.join(map(str, sorted(totals)))} parts, "
            f"so there are several series: {_told(totals.values())}"
        )
    total = max(totals, default=0)
    notes = []
    if len(rolls) > 1:
        notes.append(f"{_v(newest)} is taken, the newest of {', '.join(map(_v, rolls))}")
    if places and max(places) > total:
        notes.append(f"number {max(places)} comes after the last of {total}")
    chosen = tuple(message for several in places.values() for message in several)
    return Choice(
        chosen,
        tuple(left),
        tuple(number for number in range(1, total + 1) if number not in places),
        total,
        (*problems, *unusable(chosen)),
        tuple(notes),
        next((message for found, message in mine if found.number == 0), None),
    )


def _places(
    mine: Sequence[tuple[Tag, Message]], out: Callable[[Message, str], None]
) -> dict[int, list[Message]]:
    """Return the different patches of one re-roll by number, in order."""
    places: dict[int, list[Message]] = defaultdict(list)
    for found, message in sorted(mine, key=lambda pair: pair[0].number or 0):
        number = found.number or 0
        if number == 0:
            out(message, "a cover letter")
        elif not message.has_diff:
            out(message, message.problem or "no diff in it")
        elif same := [other for other in places[number] if other.changes == message.changes]:
            out(message, f"the same as {same[0].name}")
        else:
            places[number].append(message)
    return dict(places)


def _strangers(numbered: Sequence[tuple[Tag, Message]], newest: tuple[int, int]) -> list[str]:
    """Name a re-roll that is another series: no sender in common, or neither a title nor a file."""
    found = []
    for roll in sorted({found.roll for found, _ in numbered if found.roll < newest}):
        older, newer = ([pair for pair in numbered if pair[0].roll == wanted] for wanted in (roll, newest))
        if _strange(_senders(older), _senders(newer)) or _strange(_subjects(older), _subjects(newer)):
            found.append(
                f"{_v(roll)} and {_v(newest)} are different series: {_told((older[0][1], newer[0][1]))}"
            )
    return found


def _strange(older: set[str], newer: set[str]) -> bool:
    return bool(older and newer) and not older & newer


def _senders(pairs: Sequence[tuple[Tag, Message]]) -> set[str]:
    return {part for _, message in pairs for part in parseaddr(message.sender) if part}


def _subjects(pairs: Sequence[tuple[Tag, Message]]) -> set[str]:
    files = {name.decode("latin-1") for _, message in pairs for name in _FILE.findall(message.body)}
    return {found.title for found, _ in pairs} | files


def unusable(chosen: Iterable[Message]) -> list[str]:
    """Say of each message that cannot be used why."""
    return [f"{message.name} {message.problem}" for message in chosen if message.problem]


def _v(roll: tuple[int, int]) -> str:
    return f"v{roll[0]}" + (f".{roll[1]}" if roll[1] else "")


def _told(messages: Iterable[Message]) -> str:
    return "; ".join(
        f"{message.subject!r} ({message.name}{', ' + message.message_id if message.message_id else ''})"
        for message in messages
    )
