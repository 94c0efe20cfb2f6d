# SPDX-License-Identifier: MIT
"""A kernel source folder of the user: what it holds now, and a copy that shares what it can."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from harness.build import inuse
from harness.errors import HarnessError


@dataclass(frozen=True)
class Folder:
    """A source folder and a digest of its content; ``listed`` names its files if git knows them."""

    path: Path
    digest: str
    listed: tuple[bytes, ...] | None


def holds_source(folder: Path) -> bool:
    """Say whether this is the top of a Linux source tree."""
    return (folder / "Kbuild").is_file() and (folder / "Makefile").is_file()


def identify(folder: Path) -> Folder:
    """Find out what a source folder holds: by git, else by every file's size and time.

    Raises HarnessError when it is no kernel source, or was built in place.
    """
    if not holds_source(folder):
        raise HarnessError(f"{folder} holds no Linux source", advice="give the top folder of a kernel tree")
    known = _ask_git(folder) if (folder / ".git").exists() else None
    if known is not None:
        return known
    if (folder / ".config").exists() or (folder / "include/config").exists():
        # kbuild refuses such a tree, and without git nobody knows which files are source.
        raise HarnessError(f"{folder} was built in place", advice=f"run `make -C {folder} mrproper` first")
    return Folder(folder, hashlib.sha256(_listing(folder).encode()).hexdigest(), None)


def copy(source: Folder, tree: Path, name: str) -> None:
    """Copy a source folder to ``tree``, which appears when complete.

    Files that did not change since the last copy, ``name``-DIGEST beside ``tree``, are shared
    with it; older copies go, unless they are in use. Raises HarnessError when it cannot be copied.
    """
    copies = lineage(tree.parent, name)
    temporary = tree.with_name(f"{tree.name}.new")
    shutil.rmtree(temporary, ignore_errors=True)
    # By nanoseconds: an edit may be as long as what it replaces, and come within the same second.
    command = [
        "rsync",
        "-a",
        "--modify-window=-1",
        "--exclude=.git",
        *(f"--link-dest={latest}" for latest in copies[-1:]),
    ]
    names: bytes | None = None
    if source.listed is not None:
        command += ["--from0", "--files-from=-"]
        names = b"\0".join(source.listed)
    result = subprocess.run(
        [*command, f"{source.path}/", f"{temporary}/"], input=names, capture_output=True, check=False
    )
    if result.returncode != 0:
        shutil.rmtree(temporary, ignore_errors=True)
        raise HarnessError(
            f"cannot copy {source.path}",
            details=result.stderr.decode(errors="replace")[-500:],
            advice="check that every file can be read, and the space on the disk",
        )
    inuse.hold(temporary)
    temporary.rename(tree)
    tree.touch()
    forget(copies[:-1])


def lineage(sources: Path, name: str) -> list[Path]:
    """Return the trees ``name``-DIGEST that were taken from one place, the last one last."""
    found = [path for path in sources.glob(f"{name}-????????????") if path.is_dir()]
    return sorted(found, key=lambda path: path.stat().st_mtime)


def forget(trees: Sequence[Path]) -> None:
    """Remove trees that nobody uses."""
    for tree in trees:
        inuse.remove(tree)


def kernel_version(tree: Path) -> str:
    """Return the version that a tree's Makefile states, like ``7.3.4``."""
    text = (tree / "Makefile").read_text(encoding="utf-8", errors="replace")
    pattern = r"^(VERSION|PATCHLEVEL|SUBLEVEL|EXTRAVERSION) *= *(\S*)$"
    found: dict[str, str] = dict(re.findall(pattern, text, re.MULTILINE))
    number = ".".join(found.get(key, "?") for key in ("VERSION", "PATCHLEVEL", "SUBLEVEL"))
    return number + found.get("EXTRAVERSION", "")


def _ask_git(folder: Path) -> Folder | None:
    """Identify a work tree by its commit and every change on top; None when git cannot."""
    head = _git(folder, "rev-parse", "HEAD")
    changes = _git(folder, "diff", "HEAD", "--binary", "--no-ext-diff", "--no-textconv")
    new = _git(folder, "ls-files", "-z", "--others", "--exclude-standard")
    known = _git(folder, "ls-files", "-z", "--cached")
    if head is None or changes is None or new is None or known is None:
        return None
    hasher = hashlib.sha256(head + changes)
    files = [name for name in (known + new).split(b"\0") if name and os.path.lexists(_join(folder, name))]
    for name in new.split(b"\0"):
        if name and os.path.isfile(_join(folder, name)):
            hasher.update(b"\0" + name + b"\0" + Path(os.fsdecode(_join(folder, name))).read_bytes())
    return Folder(folder, hasher.hexdigest(), tuple(files))


def _join(folder: Path, name: bytes) -> bytes:
    return os.fsencode(folder) + b"/" + name


def _git(folder: Path, *words: str) -> bytes | None:
    # Without these two, git writes what it finds out into the user's index; `diff` minds only the first.
    quiet = ["-c", "diff.autoRefreshIndex=false"]
    command = ["git", *quiet, "-c", f"safe.directory={folder}", "-C", str(folder), *words]
    environment = {**os.environ, "GIT_OPTIONAL_LOCKS": "0"}
    try:
        result = subprocess.run(command, capture_output=True, check=False, env=environment)
    except FileNotFoundError:
        return None
    return result.stdout if result.returncode == 0 else None


def _listing(folder: Path) -> str:
    lines = []
    for at, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if name != ".git")
        for name in sorted(names):
            status = os.lstat(os.path.join(at, name))
            lines.append(f"{os.path.relpath(at, folder)}/{name} {status.st_size} {status.st_mtime_ns}")
    return "\n".join(lines)
