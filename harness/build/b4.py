# SPDX-License-Identifier: MIT
"""A thread of the list, fetched by b4 from its message-id.

b4 only fetches. Which mails make the series is decided in ``rolls`` as for every other source: b4's
own choice (``b4 am``) ends with status 0 when a part is missing, puts two patches with one number
into the series, and replaces bytes that are not UTF-8.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import urllib.parse
from pathlib import Path

from filelock import FileLock

from harness import paths, process
from harness.build.inputs import digest_of
from harness.errors import HarnessError
from harness.progress import Step

PATIENCE = 300.0
"""Seconds that fetching a thread may take."""

_ADDRESS = re.compile(r"https?://[^/]+/(?:[^/]+/)?([^/]+@[^/]+)(?:/.*)?")
_BARE = re.compile(r"<?([^\s<>/:]+@[^\s<>/:]+)>?")


def message_id(place: str) -> str | None:
    """Return the message-id in ``place``: bare, in ``<>``, after ``b4:``, or in a list archive's URL."""
    match = _BARE.fullmatch(place.removeprefix("b4:")) or _ADDRESS.fullmatch(place)
    return urllib.parse.unquote(match[1]) if match else None


def fetch(wanted: str, step: Step) -> Path:
    """Return a folder (a Maildir) with the thread of a message-id; one fetched earlier is used again.

    Raises HarnessError when b4 is not installed, cannot reach the archive, or finds nothing.
    """
    folder = paths.cache() / "threads" / digest_of(wanted)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{folder}.lock"):
        if folder.is_dir():
            step.done(f"fetched earlier; remove {folder} to fetch it again")
            return folder
        new = folder.with_name(f"{folder.name}.new")
        shutil.rmtree(new, ignore_errors=True)
        new.mkdir()
        try:
            _run(wanted, new, step)
            (new / "thread").rename(folder)
        finally:
            shutil.rmtree(new, ignore_errors=True)
    return folder


def _run(wanted: str, folder: Path, step: Step) -> None:
    step.update("b4 fetches the thread")
    options = ["--no-cache", "--save-as-maildir", "--mbox-name", "thread", "--outdir", str(folder)]
    log = folder / "log"
    with (
        log.open("wb") as stream,
        process.running(
            [_command(), "mbox", *options, wanted], stdin=subprocess.DEVNULL, stdout=stream, stderr=stream
        ) as child,
    ):
        try:
            status = child.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            status = -1
    if status != 0 or not any((folder / "thread").glob("*/*")):
        raise HarnessError(
            f"b4 cannot fetch {wanted}" + (f" in {PATIENCE:.0f} s" if status < 0 else ""),
            details=log.read_text(errors="replace").strip()[-800:],
            advice="check the message-id and the network, or save the thread as an mbox in a browser "
            "(lore.kernel.org offers mbox.gz) and give that with --series",
        )


def _command() -> str:
    beside = Path(sys.executable).with_name("b4")
    command = str(beside) if beside.is_file() else shutil.which("b4")
    if command is None:
        raise HarnessError(
            "a message-id is fetched with b4, which is not installed",
            advice=f"{sys.executable} -m pip install b4, or give --series an mbox of the thread",
        )
    return command
