# SPDX-License-Identifier: MIT
"""A range of commits in somebody's git repository, read as messages. Nothing in it is written."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import msgspec

from harness.build.mail import Message
from harness.errors import HarnessError, UsageError

SYNTAX = "give it as REPOSITORY:OLDER..NEWER"

_PLACE = re.compile(r"(?P<repository>.*):(?P<older>[^:]*?)(?P<dots>\.\.\.?)(?P<newer>[^:]*)")
# What the user's git is configured to show must not matter.
_AS_PATCH = (
    *("--always", "--root", "--patch", "--binary", "--find-renames", "--no-ext-diff", "--no-textconv"),
    *("--src-prefix=a/", "--dst-prefix=b/", "--encoding=UTF-8", "--format=%an <%ae>%x00%s%x00%B%x00"),
)


class Range(msgspec.Struct, frozen=True):
    """The commits of a range, oldest first, the commit that they start from, and what to tell."""

    messages: tuple[Message, ...]
    base_commit: str
    left_out: tuple[tuple[str, str, str], ...]
    """Commits that are no patch: number, subject, and why."""
    notes: tuple[str, ...]


def is_range(place: str) -> bool:
    """Say whether ``place`` is written like a range, with or without ``git:`` before it."""
    return place.startswith("git:") or _PLACE.fullmatch(place) is not None


def read_range(place: str) -> Range:
    """Read ``REPOSITORY:OLDER..NEWER``: the commits that NEWER has and OLDER has not.

    Raises UsageError when it is no range, there is no repository, a revision is not known, the
    range is empty or has merges.
    """
    match = _PLACE.fullmatch(place.removeprefix("git:"))
    if match is None or match["dots"] != ".." or not (match["older"] and match["newer"]):
        raise UsageError(f"{place} is not a range of commits", advice=SYNTAX)
    repository = Path(match["repository"] or ".").expanduser()
    if not repository.is_dir():
        raise UsageError(f"{place}: there is no folder {repository}", advice=SYNTAX)
    _git(repository, "rev-parse", "--git-dir", advice="give the folder of a git repository; " + SYNTAX)
    older, newer = (_commit(repository, match[name]) for name in ("older", "newer"))
    lines = _git(repository, "rev-list", "--reverse", "--topo-order", "--parents", f"{older}..{newer}")
    commits = [line.split() for line in lines.decode().splitlines()]
    if not commits:
        raise UsageError(f"{place} holds no commit", advice=f"{SYNTAX}: the older revision comes first")
    merges = [commit for commit, *parents in commits if len(parents) > 1]
    if merges:
        raise UsageError(
            f"{place} holds {len(merges)} merge commit(s), which are no patches: {_listed(merges)}",
            advice="give a range without merges; `git rebase OLDER` on a branch of its own makes one",
        )
    base = "".join(commits[0][1:])
    notes = []
    if base != older:
        notes.append(f"{match['older']} is not where the range starts: that is {base[:12] or 'nothing'}")
    messages, left_out = [], []
    for commit, *_ in commits:
        message = _message(repository, commit)
        if message.has_diff:
            messages.append(message)
        else:
            left_out.append((message.name, message.subject, "changes nothing"))
    return Range(tuple(messages), base, tuple(left_out), tuple(notes))


def _commit(repository: Path, revision: str) -> str:
    out = _git(
        repository, "rev-parse", "--verify", "--end-of-options", f"{revision}^{{commit}}",
        advice=f"{repository} has no revision {revision}; see `git log`",
    )  # fmt: skip
    return out.decode().strip()


def _message(repository: Path, commit: str) -> Message:
    out = _git(repository, "diff-tree", *_AS_PATCH, commit)
    author, subject, text, diff = out.split(b"\0", 3)
    return Message(
        commit[:12],
        subject.decode(errors="replace"),
        _harmless(text) + b"\n---\n" + diff.lstrip(b"\n"),
        author=author.decode(errors="replace"),
    )


def _harmless(message: bytes) -> bytes:
    """Indent what a tool could take for a diff in a commit's message."""
    return re.sub(
        rb"^(?=diff |--- |\+\+\+ |@@ |Index: |\*\*\* )", b" ", message.rstrip(b"\n"), flags=re.MULTILINE
    )


def _listed(commits: list[str]) -> str:
    return ", ".join(commit[:12] for commit in commits[:5]) + (", ..." if len(commits) > 5 else "")


def _git(repository: Path, *arguments: str, advice: str = "") -> bytes:
    # No lock, no fetch, no question; and not the repository whose hook may have started this.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    environment |= {
        "GIT_OPTIONAL_LOCKS": "0",
        "GIT_NO_LAZY_FETCH": "1",
        "GIT_TERMINAL_PROMPT": "0",
        "LC_ALL": "C",
    }
    try:
        result = subprocess.run(
            ["git", "--no-replace-objects", "-C", str(repository), *arguments],
            capture_output=True, check=False, env=environment, stdin=subprocess.DEVNULL,
        )  # fmt: skip
    except FileNotFoundError:
        raise HarnessError("git is not installed", advice="install Debian's git") from None
    if result.returncode != 0:
        raise UsageError(
            f"git cannot read {repository}",
            details=result.stderr.decode(errors="replace")[-500:],
            advice=advice or "check the repository with `git fsck`",
        )
    return result.stdout
