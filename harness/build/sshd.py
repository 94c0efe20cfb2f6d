# SPDX-License-Identifier: MIT
"""An SSH server for the host kernel: Debian's dropbear and its shared libraries, as a cpio archive."""

from __future__ import annotations

import subprocess
import tempfile
from pathlib import Path
from typing import Any

from filelock import FileLock

from harness import paths
from harness.build import apt, initramfs, mirrors
from harness.errors import HarnessError
from harness.progress import Progress

PACKAGES = ("dropbear-bin", "libc6", "libcrypt1", "libgmp10", "libtomcrypt1", "libtommath1", "zlib1g")
"""dropbear and all that it is linked with."""
LOADER = "ld-linux-x86-64.so.2"
ACCOUNTS = {
    "etc/passwd": b"root:x:0:0:root:/root:/bin/sh\n",
    "etc/group": b"root:x:0:\n",
    "etc/shells": b"/bin/sh\n",
}
"""Who may come in. There is no password: a key opens, or nothing does."""


def archive(progress: Progress) -> bytes:
    """Return the archive, whose packages apt fetches and verifies at the first use. Raises HarnessError."""
    file = paths.cache() / "guest" / "ssh.cpio"
    if not file.exists():
        file.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(file.with_suffix(".lock")), progress.step("Guest user space: dropbear") as step:
            with tempfile.TemporaryDirectory(dir=file.parent) as name:
                folder = Path(name)
                versions = []
                for package in PACKAGES:
                    deb, version = apt.download(package, mirrors.own_suite(), step)
                    versions.append(version)
                    subprocess.run(["dpkg-deb", "-x", str(deb), str(folder / "root")], check=True)
                    deb.unlink()
                whole = folder / file.name
                whole.write_bytes(initramfs.archive(server_files(folder / "root") | ACCOUNTS))
                whole.rename(file)
            step.done(versions[0])
    return file.read_bytes()


def server_files(root: Path) -> dict[str, bytes]:
    """Return dropbear and the libraries it needs, found in the unpacked packages below ``root``.

    Raises HarnessError when one of them is not there.
    """
    files = {"bin/dropbear": _find(root, "dropbear").read_bytes()}
    wanted = [LOADER, *_needed(_find(root, "dropbear"))]
    while wanted:
        library = wanted.pop()
        place = f"{'lib64' if library == LOADER else 'lib/x86_64-linux-gnu'}/{library}"
        if place not in files:
            found = _find(root, library)
            files[place] = found.read_bytes()
            wanted += _needed(found)
    return files


def _find(root: Path, name: str) -> Path:
    """Return the file of that name, symbolic links within ``root`` followed."""
    for path in sorted(root.rglob(name)):
        target = path.resolve()
        if target.is_relative_to(root.resolve()) and target.is_file() and _is_elf(target):
            return target
    raise HarnessError(
        f"dropbear needs {name}, which is in none of the packages {', '.join(PACKAGES)}",
        advice="add the package that holds it to PACKAGES in harness/build/sshd.py",
    )


def _is_elf(file: Path) -> bool:
    with file.open("rb") as stream:
        return stream.read(4) == b"\x7fELF"


def _needed(file: Path) -> list[str]:
    """Return the shared libraries that an ELF file names."""
    from elftools.elf.elffile import ELFFile

    with file.open("rb") as stream:
        dynamic: Any = ELFFile(stream).get_section_by_name(".dynamic")
        if dynamic is None:
            return []
        return [str(tag.needed) for tag in dynamic.iter_tags() if tag.entry.d_tag == "DT_NEEDED"]
