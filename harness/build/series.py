# SPDX-License-Identifier: MIT
"""A series in, patches in order out, and what there is to tell about how they were found.

A series is a folder of patches or mails (with or without a quilt ``series`` file, or a Maildir), one
file (a patch, a mail, an mbox), a range of commits, or a message-id.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

import msgspec

from harness.build import b4, diff, gitrange, mail, rolls
from harness.build.inputs import digest_of
from harness.build.mail import Message
from harness.build.rolls import LeftOut
from harness.errors import HarnessError, UsageError
from harness.progress import Progress

SUFFIXES = (".patch", ".diff", ".eml", ".mbox", ".mbx", ".mail", ".gz")
FORMS = "a folder of patches or mails, an mbox, REPOSITORY:OLDER..NEWER, or a message-id"

_BASE = re.compile(rb"^base-commit: ([0-9a-f]{12,64})[ \t\r]*$", re.MULTILINE)
_FILES = re.compile(rb"^ (\d{1,6}) files? changed[,\n]", re.MULTILINE)
_PREREQUISITE = re.compile(rb"^prerequisite-patch-id: ([0-9a-f]{12,64})[ \t\r]*$", re.MULTILINE)


class Patch(msgspec.Struct, frozen=True):
    """One patch: where it was read from, its subject, and its text with the diff in it."""

    name: str
    subject: str
    text: bytes
    author: str = ""
    message_id: str = ""


class Series(msgspec.Struct, frozen=True, dict=True):
    """Patches in the order in which they apply; ``digest`` identifies their content.

    ``place`` is where the series was looked for. ``missing`` are the numbers that should be there
    of ``total``; ``problems`` say why the series cannot be used, ``notes`` what was decided.
    """

    place: str | None
    patches: tuple[Patch, ...]
    left_out: tuple[LeftOut, ...] = ()
    missing: tuple[int, ...] = ()
    total: int = 0
    problems: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    base_commit: str = ""
    prerequisites: tuple[str, ...] = ()

    @cached_property
    def digest(self) -> str:
        """A digest of what the patches change, whatever their files are called and say about it."""
        changes = (Message("", "", patch.text).changes for patch in self.patches)
        return digest_of(*(change.rstrip(b"\n").decode("latin-1") for change in changes))


EMPTY = Series(None, ())


def read(place: str | Path | None, progress: Progress | None = None) -> Series:
    """Read a series that is whole; None gives an empty one. What was decided is told on ``progress``.

    Raises UsageError when nothing is at ``place``, nothing in it is a patch, a part is missing, or
    it is not clear which patches make the series.
    """
    if place is None:
        return EMPTY
    found = look(place, progress)
    refuse(found)
    if progress is not None:
        for line in told(found):
            progress.console.print(f"  series: {line}", markup=False, soft_wrap=True)
    return found


def look(place: str | Path, progress: Progress | None = None) -> Series:
    """Read a series as it is, with what is missing and what is wrong told in it.

    Raises UsageError when nothing is at ``place`` or nothing in it is a patch.
    """
    text = str(place)
    path = Path(text).expanduser()
    try:
        if not os.path.lexists(path):
            if gitrange.is_range(text):
                return _from_range(text)
            if (wanted := b4.message_id(text)) is not None:
                with (progress or Progress(Progress.quiet_console())).step(f"Thread {wanted}") as step:
                    return _found(text, rolls.choose(_maildir(b4.fetch(wanted, step))))
        if path.is_dir():
            if (path / "series").is_file():
                return _from_quilt(path / "series", text)
            return _found(text, rolls.choose(_folder(path)))
        messages = mail.read_file(_regular(path))
        if path.name.split(".")[0] == "series" and not any(message.has_diff for message in messages):
            return _from_quilt(path, text)
        return _found(text, rolls.choose(messages))
    except OSError as error:
        raise UsageError(f"cannot read the series {text}: {error}", advice=f"give {FORMS}") from None


def told(series: Series) -> list[str]:
    """Say in a few lines what was decided and left out; nothing when there was no choice."""
    reasons: dict[str, int] = {}
    for entry in series.left_out:
        why = re.sub(r"the same as .*", "the same as another", entry.why)
        reasons[why] = reasons.get(why, 0) + 1
    lines = list(series.notes)
    if reasons:
        counts = ", ".join(f"{count} ({why})" for why, count in reasons.items())
        lines.append(f"left out: {counts}; `mkh series show {series.place}` names them")
    return lines


def refuse(series: Series) -> None:
    """Raise UsageError when something is missing from a series, or wrong with it."""
    if series.missing:
        names = ", ".join(f"{number}/{series.total}" for number in series.missing[:20])
        more = ", ..." if len(series.missing) > 20 else ""
        raise UsageError(
            f"{series.place}: {len(series.missing)} of {series.total} patches are missing: {names}{more}",
            details=_details(series),
            advice=f"add them (`mkh series show {series.place}` lists what is there), "
            "or name the wanted files in order in a file `series` beside them",
        )
    if series.problems:
        raise UsageError(
            f"{series.place}: {series.problems[0]}",
            details="\n".join((*series.problems[1:], _details(series))).strip(),
            advice="keep one series in one place, saved unchanged (raw); "
            "`mkh series show` lists what is there",
        )


def _found(
    place: str, choice: rolls.Choice, *, base: str = "", notes: Sequence[str] = (), parse: bool = True
) -> Series:
    """Make a series of what was chosen, its diffs checked."""
    texts = [message.body for message in ((choice.cover,) if choice.cover else ()) + choice.messages]
    bases = [found.decode() for text in texts for found in _BASE.findall(text)]
    damaged, shorter = _examined(choice.messages)
    series = Series(
        place,
        tuple(
            Patch(m.name, m.subject or Path(m.name).stem, m.body, m.author, m.message_id)
            for m in choice.messages
        ),
        choice.left_out,
        choice.missing,
        choice.total,
        (*choice.problems, *damaged),
        (*notes, *choice.notes, *shorter),
        base or (bases[0] if bases else ""),
        tuple(found.decode() for text in texts for found in _PREREQUISITE.findall(text)),
    )
    if not series.patches:
        raise UsageError(
            f"{place} holds no patch",
            details="\n".join((*series.problems, _details(series))).strip(),
            advice=f"give {FORMS}; of a folder, files ending in {', '.join(SUFFIXES)} are read",
        )
    return series


def _examined(messages: Sequence[Message]) -> tuple[list[str], list[str]]:
    """Name the patches without a diff that can be taken apart; and those that look cut off, or edited:
    they change fewer files than their own summary says."""
    damaged, shorter = [], []
    for message in messages:
        try:
            changed = {file.path for file in diff.parse(message.body, message.name)}
        except HarnessError as error:
            if not message.problem:
                damaged.append(f"{error.what} ({error.advice})")
            continue
        if not changed and not message.problem:
            damaged.append(f"{message.name} holds no diff that can be read")
        said = _FILES.findall(message.body[: -len(message.changes)])
        if said and len(changed) < int(said[-1]):
            shorter.append(
                f"{message.name} changes {len(changed)} files, and its summary says {int(said[-1])}"
            )
    return damaged, shorter


def _details(series: Series) -> str:
    listed = [f"left out: {entry.name} ({entry.subject}): {entry.why}" for entry in series.left_out[:12]]
    if len(series.left_out) > 12:
        listed.append(f"and {len(series.left_out) - 12} more")
    return "\n".join(listed)


def _from_range(place: str) -> Series:
    found = gitrange.read_range(place)
    choice = rolls.Choice(found.messages, tuple(LeftOut(*entry) for entry in found.left_out))
    return _found(place, choice, base=found.base_commit, notes=found.notes)


def _from_quilt(file: Path, place: str) -> Series:
    """Read the patches that a quilt file names, in its order."""
    messages: list[Message] = []
    for line in file.read_text(encoding="utf-8", errors="replace").splitlines():
        words = re.split(r"(?:^|\s)#", line, maxsplit=1)[0].split()
        if not words:
            continue
        try:
            if words[1:] not in ([], ["-p1"]):
                raise UsageError("only -p1 is known")
            found = [m for m in mail.read_file(_inside(file.parent / words[0], file.parent)) if m.has_diff]
            if not found:
                raise UsageError("there is no patch in it")
        except (HarnessError, OSError, ValueError) as error:
            raise UsageError(
                f"{file}: cannot use the line {line.strip()[:200]!r}",
                details=str(error),
                advice="each line names one file in this folder with a patch that applies with -p1",
            ) from None
        messages += found
    problems = tuple(rolls.unusable(messages))
    unnamed = sorted(
        {entry.name for entry in _candidates(file.parent)} - {m.name.split(",")[0] for m in messages}
    )
    left_out = tuple(LeftOut(name, "", f"not in the file `{file.name}`") for name in unnamed)
    return _found(place, rolls.Choice(tuple(messages), left_out, problems=problems))


def _folder(folder: Path) -> list[Message]:
    if (folder / "cur").is_dir() and (folder / "new").is_dir():
        return _maildir(folder)
    return [message for file in _candidates(folder) for message in mail.read_file(_inside(file, folder))]


def _candidates(folder: Path) -> list[Path]:
    return sorted(file for file in folder.iterdir() if file.suffix in SUFFIXES and file.is_file())


def _maildir(folder: Path) -> list[Message]:
    files = sorted(file for part in ("cur", "new") for file in (folder / part).iterdir() if file.is_file())
    return [message for file in files for message in mail.read_file(_inside(file, folder))]


def _inside(file: Path, folder: Path) -> Path:
    """Return ``file`` if it is one, in ``folder`` and not by a link that leads out of it."""
    if not file.resolve().is_relative_to(folder.resolve()):
        raise UsageError(
            f"{file} leads out of {folder}", advice="put the file itself into the folder of the patches"
        )
    return _regular(file)


def _regular(file: Path) -> Path:
    if file.exists() and not file.is_file():
        raise UsageError(f"{file} is no regular file", advice=f"give {FORMS}")
    return file
