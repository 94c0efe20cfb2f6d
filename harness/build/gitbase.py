# SPDX-License-Identifier: MIT
"""A revision of a git repository: which tree it is, and its files, taken without a work tree.

Nothing is written into a repository of the user. One that is far away is fetched, one commit deep,
into a bare repository in the cache.
"""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from shlex import quote

from filelock import FileLock

from harness import paths, process
from harness.build.inputs import digest_of
from harness.definition import GitBase
from harness.errors import HarnessError
from harness.progress import Step

OPTIONS = (
    # A repository that belongs to somebody else may be read.
    "safe.directory=*",
    # The files are the repository's own, whatever the user's checkouts look like.
    "core.autocrlf=false",
    "core.eol=lf",
    "filter.lfs.smudge=",
    "filter.lfs.process=",
    "filter.lfs.required=false",
    "gc.auto=0",
    # A server that says nothing for a minute counts as gone.
    "http.lowSpeedLimit=1",
    "http.lowSpeedTime=60",
)
MANY = 5_000
"""Changed files from which on a tree is written anew."""


@dataclass(frozen=True)
class Revision:
    """A commit in a repository on this computer, and the tree that it holds."""

    repository: Path
    commit: str
    tree: str


def is_remote(repository: str) -> bool:
    """Say whether a repository is a URL or HOST:PATH, and not a path on this computer."""
    return "://" in repository or (
        re.match(r"[\w.@-]+:\S", repository) is not None and not Path(repository).exists()
    )


def holds_repository(path: Path) -> bool:
    """Say whether a path is a git work tree's top folder, or a bare repository."""
    return (path / ".git").exists() or ((path / "HEAD").is_file() and (path / "objects").is_dir())


def find(base: GitBase, step: Step) -> Revision:
    """Return the commit that a base names, fetched when it is far away.

    Raises HarnessError saying what git said when there is no such repository or revision.
    """
    if is_remote(base.repository):
        return _fetched(base, step)
    repository = Path(base.repository).expanduser().resolve()
    if not holds_repository(repository):
        raise HarnessError(
            f"{repository} is no git repository", advice="give the top folder of a clone, or a URL"
        )
    return _revision(repository, base.revision, base)


def _revision(repository: Path, name: str, base: GitBase) -> Revision:
    ids = []
    for kind in ("commit", "tree"):
        result = _git(repository, "rev-parse", "--verify", "--end-of-options", f"{name}^{{{kind}}}")
        if result.returncode != 0:
            shallow = _git(repository, "rev-parse", "--is-shallow-repository").stdout.strip() == b"true"
            raise HarnessError(
                f"{base.repository} has no revision {base.revision}",
                details=result.stderr.decode(errors="replace").strip(),
                advice="fetch it there first (`git fetch --unshallow`, or with --depth)"
                if shallow
                else "give a branch, a tag or a commit that `git log` in there knows",
            )
        # With --end-of-options, git 2.30 to 2.42 repeats it.
        ids.append(result.stdout.decode().split()[-1])
    return Revision(repository, *ids)


def _fetched(base: GitBase, step: Step) -> Revision:
    repository = paths.cache() / "git" / f"{digest_of(base.repository)[:12]}.git"
    repository.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(repository.with_suffix(".lock")):
        subprocess.run(["git", "init", "-q", "--bare", repository], check=True, env=_environment())
        # A fetch that was killed leaves its locks behind.
        for left in repository.glob("*.lock"):
            left.unlink()
        command = [*_command(repository), "fetch", "--depth=1", "--no-tags", "--progress", "--force"]
        command += ["--end-of-options", base.repository, base.revision]
        with process.running(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            env=_environment(),
        ) as child:
            said = _followed(child, step)
            status = child.wait()
        if status != 0:
            raise HarnessError(
                f"cannot fetch {base.revision} from {base.repository}",
                details="\n".join(said[-4:]),
                advice="check the network and the URL; of a server that refuses commit ids, "
                "give a branch or a tag",
            )
        found = _revision(repository, "FETCH_HEAD", base)
        _git(repository, "update-ref", f"refs/mkharness/{found.commit}", found.commit)
    return found


def _followed(child: subprocess.Popen[bytes], step: Step) -> list[str]:
    """Show git's progress, which ends in a carriage return; return what else it says."""
    assert child.stderr is not None
    said: list[str] = []
    rest = b""
    while data := os.read(child.stderr.fileno(), 4096):
        *lines, rest = re.split(rb"[\r\n]", rest + data)
        for line in filter(None, (line.decode(errors="replace").strip() for line in lines)):
            if "%" in line:
                step.update(line)
            else:
                said.append(line)
    return said


def archive(revision: Revision, names: Sequence[str] = ()) -> str:
    """Return the shell command that writes a tar archive of the tree, or of some of its files.

    The archive has one top folder.
    """
    words = [
        *_command(revision.repository),
        "--literal-pathspecs",
        "archive",
        "--prefix=linux/",
        revision.tree,
    ]
    return " ".join(map(quote, [*words, "--", *names] if names else words))


def changes(revision: Revision, other: str) -> tuple[list[str], list[str]] | None:
    """Return which files of the tree ``other`` go, and which the revision's tree has otherwise.

    None when the repository has no such tree, or too much differs.
    """
    parts = []
    for kind in ("D", "d"):
        result = _git(
            revision.repository,
            *("diff-tree", "-r", "-z", "--no-renames", "--name-only", f"--diff-filter={kind}"),
            *(f"{other}^{{tree}}", revision.tree),
        )
        if result.returncode != 0:
            return None
        parts.append([os.fsdecode(name) for name in result.stdout.split(b"\0") if name])
    gone, changed = parts
    return (gone, changed) if len(gone) + len(changed) <= MANY else None


def linked(old: Path, gone: list[str], changed: list[str]) -> Callable[[Path], None]:
    """Return what makes a folder one of links to ``old``, without the files that go or change."""

    def make(folder: Path) -> None:
        folder.rmdir()
        subprocess.run(["cp", "-al", "--", old, folder], check=True, capture_output=True)
        for name in (*gone, *changed):
            (folder / name).unlink(missing_ok=True)
            for parent in (folder / name).parents:
                if parent == folder or not parent.is_dir() or any(parent.iterdir()):
                    break
                parent.rmdir()

    return make


def _command(repository: Path) -> list[str]:
    return ["git", *(word for option in OPTIONS for word in ("-c", option)), "-C", str(repository)]


def _environment() -> dict[str, str]:
    """Return the user's environment without what a git hook sets, and without questions."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith("GIT_")}
    quiet = {"GIT_TERMINAL_PROMPT": "0", "GIT_SSH_COMMAND": "ssh -oBatchMode=yes", "GIT_OPTIONAL_LOCKS": "0"}
    return {**kept, **quiet, "LC_ALL": "C"}


def _git(repository: Path, *words: str) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [*_command(repository), *words], capture_output=True, check=False, env=_environment()
    )
