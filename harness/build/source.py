# SPDX-License-Identifier: MIT
"""A base in, a folder with its pristine source out.

Sources are kept under ``sources/`` in the cache, one folder for each identity, complete from the
moment they have their name and never written again. A base that was obtained once is not looked
for again, so a repeated run needs no network and gives the same kernel.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import urllib.error
import urllib.request
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO

import msgspec
from filelock import FileLock

from harness import paths, process
from harness.build import apt
from harness.definition import Base, DebianBase, PathBase, TarballBase
from harness.errors import HarnessError, UsageError
from harness.progress import Progress, Step

NEEDED_SPACE = 3_500_000_000
"""Bytes that one kernel's package, source and build take together."""

BUILD_SPACE = 1_000_000_000
"""Bytes that a build takes when the source is there."""

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


def parse_base(text: str) -> Base:
    """Read what ``--base`` was given: a source folder, or a tarball on this computer.

    Raises UsageError when it is neither.
    """
    path = Path(text).expanduser().resolve()
    if (path / "Kbuild").is_file():
        return PathBase(path=str(path))
    if path.is_file() and ".tar" in path.name:
        return TarballBase(url=str(path), sha256=_sha256(path))
    raise UsageError(
        f"{text} is neither a folder with Linux source nor a source tarball",
        advice="give the top folder of a kernel tree, or a linux-*.tar.xz",
    )


def obtain(bases: Sequence[Base], progress: Progress, *, refresh: bool = False) -> Source:
    """Return the source of the first base that can be had.

    What was obtained before is used first, whatever its place in the order; ``refresh`` looks
    again for something newer. Raises HarnessError, telling why each base failed, when none can.
    """
    if not refresh:
        for base in bases:
            known = _recall(base)
            if known is not None:
                return known
    failures: list[str] = []
    for base in bases:
        try:
            with progress.step(f"Source: {base}") as step:
                source = _fetch(base, step)
                step.done(source.version)
                return source
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
    folder = paths.cache() / "sources"
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder / f"{_record_name(base)}.lock"):
        if isinstance(base, PathBase):
            return _from_path(base, step)
        check_space(NEEDED_SPACE)
        source = _from_debian(base, step) if isinstance(base, DebianBase) else _from_tarball(base, step)
        record = folder / f"{_record_name(base)}.json"
        temporary = record.with_suffix(".new")
        temporary.write_bytes(msgspec.json.encode({**asdict(source), "tree": source.tree.name}))
        temporary.rename(record)
        return source


def _recall(base: Base) -> Source | None:
    """Return what was obtained for a base before, if it is still there."""
    if isinstance(base, PathBase):
        return None
    folder = paths.cache() / "sources"
    try:
        fields = msgspec.json.decode(
            (folder / f"{_record_name(base)}.json").read_bytes(), type=dict[str, str]
        )
        source = Source(fields["kind"], fields["version"], fields["digest"], folder / fields["tree"])
    except (OSError, msgspec.DecodeError, KeyError):
        return None
    return source if (source.tree / "Makefile").is_file() else None


def _record_name(base: Base) -> str:
    return digest_of(repr(base))


def digest_of(*parts: str) -> str:
    """Return a short hexadecimal digest of texts; the borders between them count."""
    joined = "".join(f"{len(part)}:{part}" for part in parts)
    return hashlib.sha256(joined.encode()).hexdigest()[:20]


def told(error: HarnessError) -> str:
    """Return an error as one of several, its parts below one another."""
    return "\n".join(text for text in (error.what, error.details.rstrip(), error.advice) if text)


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
    source = _named("debian", f"{package} {version}", digest_of("debian", package, version, _sha256(deb)))
    if not source.tree.exists():
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
    found = _sha256(file)
    if found != base.sha256:
        if base.url.startswith("http"):
            file.unlink()
        raise HarnessError(
            f"{name} is not the file that was asked for: its SHA-256 is {found}, not {base.sha256}",
            advice="check where it comes from; correct the definition only if the new content is right",
        )
    source = _named("tarball", name, digest_of("tarball", base.sha256))
    if not source.tree.exists():
        unpackers = {".xz": "xz -dc -T0", ".gz": "gzip -dc", ".bz2": "bzip2 -dc", ".zst": "zstd -dc"}
        _extract(f"{unpackers.get(Path(name).suffix, 'cat')} < {_quoted(file)}", source.tree, step)
    if base.url.startswith("http"):
        file.unlink()
    return source


def _download(url: str, sha256: str, step: Step) -> Path:
    """Fetch a file into the cache, continuing an earlier download that was cut off."""
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


def _extract(command: str, tree: Path, step: Step) -> None:
    """Unpack a tar stream into ``tree``, which appears under its name only when complete."""
    temporary = tree.with_name(f"{tree.name}.new")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
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
    """Copy a source folder; files that did not change since the last copy are shared with it."""
    folder = Path(base.path).expanduser().resolve()
    if not (folder / "Kbuild").is_file():
        raise HarnessError(f"{folder} holds no Linux source", advice="give the top folder of a kernel tree")
    git = _git_state(folder)
    if git is None and ((folder / ".config").exists() or (folder / "include/config").exists()):
        raise HarnessError(f"{folder} was built in place", advice=f"run `make -C {folder} mrproper` first")
    digest = digest_of("path", git if git is not None else _listing(folder))
    lineage = f"path-{digest_of(str(folder))[:8]}"
    tree = paths.cache() / "sources" / f"{lineage}-{digest[:12]}"
    source = Source("path", f"{folder} ({_version(folder)})", digest, tree)
    if tree.exists():
        return source
    check_space(NEEDED_SPACE)
    step.update("copying")
    earlier = sorted(
        (p for p in tree.parent.glob(f"{lineage}-????????????") if p.is_dir()),
        key=lambda p: p.stat().st_mtime,
    )
    temporary = tree.with_name(f"{tree.name}.new")
    shutil.rmtree(temporary, ignore_errors=True)
    command = ["rsync", "-a", "--exclude=.git", *(f"--link-dest={old}" for old in earlier[-1:])]
    names: bytes | None = None
    if git is not None:
        command += ["--from0", "--files-from=-"]
        listed = _git(folder, "ls-files", "-z", "--cached", "--others", "--exclude-standard") or b""
        names = b"\0".join(
            n for n in listed.split(b"\0") if n and os.path.lexists(os.fsencode(folder) + b"/" + n)
        )
    copy = subprocess.run(
        [*command, f"{folder}/", f"{temporary}/"], input=names, capture_output=True, check=False
    )
    if copy.returncode != 0:
        shutil.rmtree(temporary, ignore_errors=True)
        raise HarnessError(f"cannot copy {folder}", details=copy.stderr.decode(errors="replace")[-500:])
    temporary.rename(tree)
    tree.touch()
    for old in earlier[:-1]:
        shutil.rmtree(old, ignore_errors=True)
    return source


def _git_state(folder: Path) -> str | None:
    """Describe a git work tree's content: its commit and every change on top. None without git."""
    if not (folder / ".git").exists():
        return None
    head = _git(folder, "rev-parse", "HEAD")
    diff = _git(folder, "diff", "HEAD", "--binary", "--no-ext-diff", "--no-textconv")
    new = _git(folder, "ls-files", "-z", "--others", "--exclude-standard")
    if head is None or diff is None or new is None:
        return None
    hasher = hashlib.sha256(head + diff)
    for name in new.split(b"\0"):
        path = Path(os.fsdecode(os.fsencode(folder) + b"/" + name))
        if name and path.is_file():
            hasher.update(b"\0" + name + b"\0" + path.read_bytes())
    return hasher.hexdigest()


def _git(folder: Path, *words: str) -> bytes | None:
    try:
        result = subprocess.run(
            ["git", "-c", f"safe.directory={folder}", "-C", str(folder), *words],
            capture_output=True,
            check=False,
        )
    except FileNotFoundError:
        return None
    return result.stdout if result.returncode == 0 else None


def _listing(folder: Path) -> str:
    """List every file with size and time of change, which is what tells two states apart."""
    lines = []
    for at, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if name != ".git")
        for name in sorted(names):
            status = os.lstat(os.path.join(at, name))
            lines.append(f"{os.path.relpath(at, folder)}/{name} {status.st_size} {status.st_mtime_ns}")
    return "\n".join(lines)


def _version(tree: Path) -> str:
    """Return the kernel version that a tree's Makefile states."""
    text = (tree / "Makefile").read_text(encoding="utf-8", errors="replace")
    found: dict[str, str] = dict(
        re.findall(r"^(VERSION|PATCHLEVEL|SUBLEVEL|EXTRAVERSION) *= *(\S*)$", text, re.MULTILINE)
    )
    number = ".".join(found.get(key, "?") for key in ("VERSION", "PATCHLEVEL", "SUBLEVEL"))
    return number + found.get("EXTRAVERSION", "")


def _sha256(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _quoted(path: Path) -> str:
    return "'" + str(path).replace("'", "'\\''") + "'"
