# SPDX-License-Identifier: MIT
"""What every part of a build needs: digests of inputs, and room on the disk."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path

from harness import paths
from harness.errors import HarnessError


def digest_of(*parts: str) -> str:
    """Return a short hexadecimal digest of texts; the borders between them count."""
    joined = "".join(f"{len(part)}:{part}" for part in parts)
    return hashlib.sha256(joined.encode()).hexdigest()[:20]


def digest_of_bytes(content: bytes) -> str:
    """Return the SHA-256 of some content in hexadecimal."""
    return hashlib.sha256(content).hexdigest()


def digest_of_file(file: Path) -> str:
    """Return a file's SHA-256 in hexadecimal."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def check_space(needed: int) -> None:
    """Raise HarnessError unless the cache folder's file system has ``needed`` bytes free."""
    folder = paths.cache()
    folder.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise HarnessError(
            f"{folder} has {free / 1e9:.1f} GB free; a kernel's source and build need {needed / 1e9:.1f} GB",
            advice="free some space, or set MKHARNESS_CACHE to a folder on a larger disk",
        )
