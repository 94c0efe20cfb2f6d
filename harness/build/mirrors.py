# SPDX-License-Identifier: MIT
"""Where this computer gets its Debian packages from, as its apt configuration says."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
from dataclasses import dataclass
from pathlib import Path

from harness.errors import HarnessError

CARRIED_OPTIONS = ("signed-by", "trusted", "check-valid-until")
INSTEAD = "check the network and /etc/apt, or give the source yourself with --base FOLDER or --base TARBALL"


@dataclass(frozen=True)
class Mirror:
    """One place that serves Debian, and the options that apt needs for it (lower case)."""

    uri: str
    options: tuple[tuple[str, str], ...] = ()


def mirrors() -> tuple[Mirror, ...]:
    """Return the Debian mirrors in apt's configuration, those with Debian's own key first.

    A mirror counts when it serves this computer's release by its plain name with the component
    ``main``; so neither the security archive nor third parties do. Raises HarnessError when
    there is none.
    """
    found = [
        Mirror(uri, tuple((key, entry[key]) for key in CARRIED_OPTIONS if key in entry))
        for entry in _configured_entries()
        if "deb" in entry["types"].split()
        and "main" in entry["components"].split()
        and {own_suite(), "stable"} & set(entry["suites"].split())
        for uri in entry["uris"].split()
    ]
    if not found:
        raise HarnessError("apt's configuration names no Debian mirror for this computer", advice=INSTEAD)
    trusted = [m for m in found if "debian-archive" in dict(m.options).get("signed-by", "")]
    return tuple(dict.fromkeys(trusted + found))


def own_suite() -> str:
    """Return the code name of the Debian release that this computer runs."""
    name = _os_release().get("VERSION_CODENAME", "")
    if not name:
        raise HarnessError("this computer does not run a Debian release", advice=INSTEAD)
    return name


def _os_release() -> dict[str, str]:
    try:
        lines = Path("/etc/os-release").read_text(encoding="utf-8").splitlines()
    except OSError:
        return {}
    pairs = (line.split("=", 1) for line in lines if "=" in line and not line.startswith("#"))
    return {key: "".join(shlex.split(value)) for key, value in pairs}


def _configured_entries() -> list[dict[str, str]]:
    """Return every enabled entry of apt's sources, keys in lower case."""
    try:
        shell = subprocess.run(
            ["apt-config", "shell", "LIST", "Dir::Etc::sourcelist/f", "PARTS", "Dir::Etc::sourceparts/d"],
            capture_output=True,
            text=True,
            check=True,
        ).stdout
    except (OSError, subprocess.CalledProcessError) as error:
        raise HarnessError(f"cannot ask apt for its configuration: {error}", advice=INSTEAD) from None
    names = dict(word.split("=", 1) for word in shlex.split(shell))
    files = [Path(names["LIST"]), *sorted(Path(names["PARTS"]).glob("*"))]
    entries: list[dict[str, str]] = []
    for file in files:
        if file.suffix in (".list", ".sources") and os.access(file, os.R_OK) and file.is_file():
            parse = parse_list if file.suffix == ".list" else parse_deb822
            entries += parse(file.read_text(encoding="utf-8", errors="replace"))
    needed = {"types", "uris", "suites", "components"}
    return [entry for entry in entries if needed <= entry.keys() and entry.get("enabled", "yes") != "no"]


def parse_list(text: str) -> list[dict[str, str]]:
    """Read apt's one-line format: ``deb [signed-by=FILE] URI SUITE COMPONENT...``."""
    entries = []
    for line in text.splitlines():
        match = re.match(r"\s*(deb|deb-src)\s+(?:\[([^]]*)\]\s+)?(\S+)\s+(\S+)\s*([^#]*)", line)
        if match:
            kind, options, uri, suite, components = match.groups()
            entry = {"types": kind, "uris": uri, "suites": suite, "components": components.strip()}
            for option in (options or "").split():
                key, _, value = option.partition("=")
                entry[key.lower()] = value
            entries.append(entry)
    return entries


def parse_deb822(text: str) -> list[dict[str, str]]:
    """Read apt's ``.sources`` format; a value's further lines are kept as they are."""
    entries: list[dict[str, str]] = []
    for paragraph in re.split(r"\n\s*\n", text):
        entry: dict[str, str] = {}
        key = ""
        for line in paragraph.splitlines():
            if line.startswith("#"):
                continue
            if line[:1].isspace() and key:
                entry[key] += "\n" + line
            elif ":" in line:
                key, value = line.split(":", 1)
                key = key.strip().lower()
                entry[key] = value.strip()
        if entry:
            entries.append(entry)
    return entries
