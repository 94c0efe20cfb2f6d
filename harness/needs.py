# SPDX-License-Identifier: MIT
"""The Debian packages that mkharness needs, each tried: harness/needs.txt, which setup.sh reads, too."""

from __future__ import annotations

import re
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import msgspec

FILE = Path(__file__).with_name("needs.txt")
LIMIT = 60.0
"""Seconds that a package may take to show that it works."""

_PACKAGE = re.compile(r"(?P<name>[a-z0-9.+-]+)(?P<optional>\?)?: (?P<why>.+)")


class Need(msgspec.Struct, frozen=True):
    """A package, what it is for, and the command that shows that it works."""

    package: str
    why: str
    trial: str
    optional: bool = False


def read(file: Path = FILE) -> Iterator[Need]:
    """Yield the packages of a list. Raises ValueError when it is not written as its head says."""
    lines = [line for line in file.read_text(encoding="utf-8").splitlines() if line and line[0] != "#"]
    for head, trial in zip(lines[::2], lines[1::2], strict=True):
        match = _PACKAGE.fullmatch(head)
        if match is None or not trial.startswith("\t"):
            raise ValueError(f"{file}: {head!r} and {trial!r} are no package and its trial")
        yield Need(match["name"], match["why"], trial.strip(), match["optional"] is not None)


def attempt(need: Need) -> tuple[bool, str]:
    """Try a package; return whether it works, and the first thing that it said."""
    with tempfile.TemporaryDirectory(prefix="mkh-doctor-") as folder:
        try:
            done = subprocess.run(
                ["sh", "-c", need.trial],
                cwd=folder,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                errors="replace",
                timeout=LIMIT,
                check=False,
            )
        except subprocess.TimeoutExpired:
            return False, f"did not end in {LIMIT:.0f} s"
    good = done.returncode == 0
    said = (done.stdout if good else done.stderr).strip() or f"exit status {done.returncode}"
    return good, said.splitlines()[0]
