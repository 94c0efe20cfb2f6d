# SPDX-License-Identifier: MIT
"""More files for the guests, as a definition names them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from harness.definition import Definition, GuestFile
from harness.errors import UsageError


@dataclass(frozen=True)
class File:
    """A guest's file: its content and the nine bits of its mode."""

    content: bytes
    mode: int


def read_files(definition: Definition) -> dict[str, File]:
    """Read the files of a definition, by their place in the guest.

    Raises UsageError when one cannot be read, naming its place and the local file.
    """
    found = {}
    for place, entry in definition.files.items():
        wanted = GuestFile(entry) if isinstance(entry, str) else entry
        source = Path(wanted.source)
        try:
            # A pipe or a device would never end.
            if source.exists() and not source.is_file():
                raise OSError("it is not a plain file")
            mode = source.stat().st_mode & 0o777 if wanted.mode is None else wanted.mode
            found[place] = File(source.read_bytes(), mode)
        except OSError as error:
            raise UsageError(
                f"the guest's file {place} of {definition.name} cannot be had: {error}",
                advice=f"put it at {source}, or correct `files` in the definition",
            ) from None
    return found
