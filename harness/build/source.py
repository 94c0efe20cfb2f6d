# SPDX-License-Identifier: MIT
"""A base in, a folder with its pristine source out.

Sources are kept under ``sources/`` in the cache, one folder for each identity, complete from the
moment they have their name and never written again. A base that was obtained once is not looked
for again, so a repeated run needs no network and gives the same kernel.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO

import msgspec
from filelock import FileLock

from harness import paths, process
from harness.build import apt, folder, gitbase, inuse
from harness.build.inputs import check_space, digest_of, digest_of_file
from harness.definition import Base, DebianBase, GitBase, PathBase, TarballBase
from harness.errors import HarnessError, UsageError
from harness.progress import Progress, Step

NEEDED_SPACE = 3_500_000_000
"""Bytes that one kernel's package, source and build take together."""

BUILD_SPACE = 1_000_000_000
"""Bytes that a build takes when the source is there."""

_REPOSITORY = re.compile(
    # A URL or HOST:PATH may have an @ of its own in front of the host.
    r"(\w+://[^/]*/.*?|[\w.-]+@[\w.-]+:.+?|[^-\s].*?)"
    r"(?:@([^-@:/\s][^@:\s]*(?:@\{[^}]*\})?))?"
)

CHUNK = 1 << 20
TIMEOUT = 60.0
"""Seconds of silence after which a download counts as failed."""


@dataclass(frozen=True)
class Source:
    """Pristine kernel source: where it is and what it is.

    ``digest`` identifies the content; ``version`` is for people. Never write into ``tree``.
    """

    kind: str
    version: str
    digest: str
    tree: Path
    base: Base | None = None
    """Which of the bases that were asked for it is."""


def parse_base(text: str) -> Base:
    """Read what ``--base`` was given: a source folder, a tarball, or ``REPOSITORY@REVISION``.

    A repository is a path or a URL; ``git:`` before it says that it is one. Without a revision it is
    HEAD. Raises UsageError when it is none of these.
    """
    if not text.startswith("git:"):
        path = Path(text).expanduser().resolve()
        if folder.holds_source(path):
            return PathBase(path=str(path))
        if path.is_file() and ".tar" in path.name:
            return TarballBase(url=str(path), sha256=digest_of_file(path))
    parts = _REPOSITORY.fullmatch(text.removeprefix("git:"))
    if parts is not None:
        local = Path(parts[1]).expanduser()
        if gitbase.is_remote(parts[1]) or gitbase.holds_repository(local):
            where = parts[1] if gitbase.is_remote(parts[1]) else str(local.resolve())
            return GitBase(where, parts[2] or "HEAD")
    raise UsageError(
        f"{text} is neither a folder with Linux source, a source tarball nor a git repository",
        advice="give the top folder of a kernel tree, a linux-*.tar.xz, or REPOSITORY@REVISION",
    )


def obtain(bases: Sequence[Base], progress: Progress, *, refresh: bool = False) -> Source:
    """Return the source of the first base that can be had.

    What was obtained before is used first, whatever its place in the order; ``refresh`` looks
    again for something newer. Raises HarnessError, telling why each base failed, when none can.
    """
    if not refresh:
        for base in bases:
            known = _recall(base, progress)
            if known is not None:
                return replace(known, base=base)
    failures: list[str] = []
    for base in bases:
        try:
            with progress.step(f"Source: {base}") as step:
                source = _fetch(base, step)
                step.done(source.version)
                return replace(source, base=base)
        except HarnessError as error:
            failures.append(f"{base}: {told(error)}")
            if base is not bases[-1]:
                progress.console.print(f"  {error.what}; trying the next base", markup=False)
    raise HarnessError(
        "no source for this kernel could be had",
        details="\n".join(failures),
        advice="put right what is named above and run again, or give the source with --base",
    )


def _fetch(base: Base, step: Step) -> Source:
    sources = paths.cache() / "sources"
    sources.mkdir(parents=True, exist_ok=True)
    record = record_of(base)
    with FileLock(record.with_suffix(".lock")):
        if isinstance(base, PathBase):
            return _from_path(base, step)
        if isinstance(base, GitBase):
            source = _from_git(base, step)
        else:
            check_space(NEEDED_SPACE)
            source = _from_debian(base, step) if isinstance(base, DebianBase) else _from_tarball(base, step)
        temporary = record.with_suffix(".new")
        fields = {"kind": source.kind, "version": source.version, "digest": source.digest}
        temporary.write_bytes(msgspec.json.encode({**fields, "tree": source.tree.name}))
        temporary.rename(record)
        return source


def _recall(base: Base, progress: Progress) -> Source | None:
    """Return what was obtained for a base before, if it is still there; what the user has, as it is now."""
    if isinstance(base, PathBase):
        mine = folder.holds_source(Path(base.path).expanduser())
    else:
        mine = isinstance(base, GitBase) and gitbase.holds_repository(Path(base.repository).expanduser())
    if mine:
        with progress.step(f"Source: {base}") as step:
            return _fetch(base, step)
    source = recorded(base)
    return source if source is not None and inuse.hold(source.tree) else None


def recorded(base: Base) -> Source | None:
    """Return what was obtained for a base earlier, None when it is not there any more."""
    try:
        fields = msgspec.json.decode(record_of(base).read_bytes(), type=dict[str, str])
        tree = paths.cache() / "sources" / fields["tree"]
        source = Source(fields["kind"], fields["version"], fields["digest"], tree)
    except (OSError, msgspec.DecodeError, KeyError):
        return None
    return source if folder.holds_source(source.tree) else None


def record_of(base: Base) -> Path:
    """Return the file that remembers what was obtained for a base."""
    place = msgspec.structs.replace(base, without=(), skips=None)
    return paths.cache() / "sources" / f"{digest_of(repr(place))}.json"


def told(error: HarnessError) -> str:
    """Return an error as one of several, its parts below one another."""
    return "\n".join(text for text in (error.what, error.details.rstrip(), error.advice) if text)


def _from_debian(base: DebianBase, step: Step) -> Source:
    failures = []
    for suite in base.suites:
        try:
            deb, version = apt.download(base.package, suite, step)
            break
        except HarnessError as error:
            failures.append(f"{error.what}\n{error.details}".rstrip())
    else:
        raise HarnessError(f"none gave {base.package}", details="\n".join(dict.fromkeys(failures)))
    package = deb.name.split("_")[0]
    source = _named(
        "debian", f"{package} {version}", digest_of("debian", package, version, digest_of_file(deb))
    )
    if not inuse.hold(source.tree):
        unpack = (
            f"dpkg-deb --fsys-tarfile {_quoted(deb)} | tar -xO --wildcards './usr/src/linux-source-*.tar.*'"
        )
        _extract(f"{unpack} | xz -dc -T0", source.tree, step)
    deb.unlink()
    return source


def _from_tarball(base: TarballBase, step: Step) -> Source:
    name = base.url.rsplit("/", 1)[-1]
    if base.url.startswith(("https://", "http://")):
        file = _download(base.url, base.sha256, step)
    else:
        file = Path(base.url).expanduser()
        if not file.is_file():
            raise HarnessError(f"there is no tarball {file}", advice="correct the path")
    found = digest_of_file(file)
    if found != base.sha256:
        if base.url.startswith("http"):
            file.unlink()
        raise HarnessError(
            f"{name} is not the file that was asked for: its SHA-256 is {found}, not {base.sha256}",
            advice="check where it comes from; correct the definition only if the new content is right",
        )
    source = _named("tarball", name, digest_of("tarball", base.sha256))
    if not inuse.hold(source.tree):
        unpackers = {".xz": "xz -dc -T0", ".gz": "gzip -dc", ".bz2": "bzip2 -dc", ".zst": "zstd -dc"}
        _extract(f"{unpackers.get(Path(name).suffix, 'cat')} < {_quoted(file)}", source.tree, step)
    if base.url.startswith("http"):
        file.unlink()
    return source


def _download(url: str, sha256: str, step: Step) -> Path:
    """Fetch a file into the cache, continuing an earlier download that was cut off."""
    import urllib.error
    import urllib.request

    file = paths.cache() / "downloads" / sha256
    file.parent.mkdir(parents=True, exist_ok=True)
    have = file.stat().st_size if file.exists() else 0
    request = urllib.request.Request(url, headers={"Range": f"bytes={have}-"} if have else {})
    try:
        with urllib.request.urlopen(request, timeout=TIMEOUT) as answer:
            continued = answer.status == 206
            total = int(answer.headers.get("Content-Length") or 0) + (have if continued else 0)
            with file.open("ab" if continued else "wb") as out:
                while block := answer.read(CHUNK):
                    out.write(block)
                    step.update(f"{out.tell() / 1e6:.0f} of {total / 1e6:.0f} MB")
    except urllib.error.HTTPError as error:
        if error.code != 416:  # 416: nothing is left to fetch
            raise HarnessError(f"cannot fetch {url}: {error}", advice="check the URL") from None
    except OSError as error:
        raise HarnessError(f"cannot fetch {url}: {error}", advice="check the network and run again") from None
    return file


def _named(kind: str, version: str, digest: str) -> Source:
    name = re.sub(r"[^A-Za-z0-9.-]", "_", version)[:60]
    return Source(kind, version, digest, paths.cache() / "sources" / f"{name}-{digest[:12]}")


def _extract(command: str, tree: Path, step: Step, start: Callable[[Path], None] | None = None) -> None:
    """Unpack a tar stream into ``tree``, which appears under its name only when complete.

    ``start`` may fill its folder before.
    """
    temporary = tree.with_name(f"{tree.name}.new")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    if start is not None:
        start(temporary)
    inuse.hold(temporary)
    line = f"{command} | tar -xv --no-same-owner --strip-components=1 -C {_quoted(temporary)}"
    with process.running(
        ["bash", "-o", "pipefail", "-c", line],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=(temporary.parent / f"{tree.name}.err").open("wb"),
    ) as child:
        _count_lines(child.stdout, step)
        status = child.wait()
    errors = temporary.parent / f"{tree.name}.err"
    said = errors.read_text(errors="replace").strip().splitlines()[-5:]
    errors.unlink()
    if status != 0 or not (temporary / "Kbuild").is_file():
        shutil.rmtree(temporary, ignore_errors=True)
        full = any("No space left" in line for line in said)
        raise HarnessError(
            "the disk is full" if full else f"unpacking {tree.name} gave no Linux source",
            details="\n".join(said),
            advice="free some space, or set MKHARNESS_CACHE" if full else "check the package or tarball",
        )
    temporary.rename(tree)


def _count_lines(stream: IO[bytes] | None, step: Step) -> None:
    assert stream is not None
    for count, _ in enumerate(stream, 1):
        if count % 500 == 0:
            step.update(f"unpacking, {count:,} files")


def _from_path(base: PathBase, step: Step) -> Source:
    found = folder.identify(Path(base.path).expanduser().resolve())
    version = f"{found.path} ({folder.kernel_version(found.path)})"
    lineage = f"path-{digest_of(str(found.path))[:8]}"
    digest = digest_of("path", found.digest)
    source = Source("path", version, digest, paths.cache() / "sources" / f"{lineage}-{digest[:12]}")
    if not inuse.hold(source.tree):
        check_space(NEEDED_SPACE)
        step.update("copying")
        folder.copy(found, source.tree, lineage)
    return source


def _from_git(base: GitBase, step: Step) -> Source:
    revision = gitbase.find(base, step)
    lineage = f"git-{digest_of(base.repository)[:8]}"
    sources = paths.cache() / "sources"
    tree = sources / f"{lineage}-{revision.tree[:12]}"
    if not inuse.hold(tree):
        check_space(NEEDED_SPACE)
        earlier = folder.lineage(sources, lineage)
        start = None
        names: list[str] = []
        if earlier and inuse.hold(earlier[-1]):
            changed = gitbase.changes(revision, earlier[-1].name[-12:])
            if changed is not None:
                start, names = gitbase.linked(earlier[-1], *changed), changed[1]
        _extract(gitbase.archive(revision, names), tree, step, start)
        folder.forget(earlier[:-1])
    tree.touch()
    version = f"{folder.kernel_version(tree)}, commit {revision.commit[:12]}"
    version = f"{base.revision} of {Path(base.repository).name} ({version})"
    return Source("git", version, digest_of("git", revision.tree), tree)


def _quoted(path: Path) -> str:
    return "'" + str(path).replace("'", "'\\''") + "'"
