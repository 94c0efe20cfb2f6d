# SPDX-License-Identifier: MIT
"""The user space of every guest: busybox, the agent, mkctl, modules; as a cpio archive.

Archives are written by hand so that the same content gives the same bytes. A kernel takes
several archives one after another, so what only the host needs is one of its own behind the
common one.
"""

from __future__ import annotations

import os
import stat
import subprocess
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from filelock import FileLock

from harness import paths
from harness.build import apt, mirrors
from harness.build.extra import File
from harness.build.inputs import digest_of, digest_of_file
from harness.errors import HarnessError, UsageError
from harness.progress import Progress

DEVICES = {"dev/console": (5, 1), "dev/null": (1, 3)}
"""Device nodes that exist before devtmpfs is mounted: major and minor numbers."""

HOST_FILES = ("boot/bzImage", "boot/initrd", "boot/vmlinux", "boot/payload")
"""What only the host's archive has."""

TOOLS = {"mkagent": "agent", "mkctl": "mkctl"}
"""Programs in the guest and the folders of their C sources."""

CFLAGS = ("-static", "-O2", "-Wall", "-Wextra", "-s", "-Wl,--build-id=none")


def archive(
    files: Mapping[str, bytes],
    devices: Mapping[str, tuple[int, int]] | None = None,
    modes: Mapping[str, int] | None = None,
) -> bytes:
    """Write a newc cpio archive of files, their folders, and character devices.

    Names are relative, without a leading slash. Sorted, owned by root, all times 0; the mode is 0755
    unless ``modes`` has another.
    """
    members: dict[str, tuple[int, bytes, tuple[int, int]]] = {}
    for name, content in files.items():
        members[name] = (stat.S_IFREG | (modes or {}).get(name, 0o755), content, (0, 0))
    for name, numbers in (devices or {}).items():
        members[name] = (stat.S_IFCHR | 0o600, b"", numbers)
    for name in list(members):
        for folder in Path(name).parents:
            if str(folder) != ".":
                members.setdefault(str(folder), (stat.S_IFDIR | 0o755, b"", (0, 0)))
    parts = [_member(number, name, *members[name]) for number, name in enumerate(sorted(members), start=1)]
    parts.append(_member(0, "TRAILER!!!", 0, b"", (0, 0)))
    whole = b"".join(parts)
    return whole + bytes(-len(whole) % 512)


def _member(number: int, name: str, mode: int, content: bytes, device: tuple[int, int]) -> bytes:
    links = 2 if stat.S_ISDIR(mode) else 1
    encoded = name.encode() + b"\0"
    fields = (number, mode, 0, 0, links, 0, len(content), 0, 0, *device, len(encoded), 0)
    header = b"070701" + b"".join(b"%08X" % field for field in fields) + encoded
    return header + bytes(-len(header) % 4) + content + bytes(-len(content) % 4)


def member(archives: Path, name: str) -> bytes:
    """Return a file of one or several newc archives, one after another; empty where none has it."""
    data, at = archives.read_bytes(), 0
    while (at := data.find(b"070701", at)) >= 0:
        fields = [int(data[at + 6 + 8 * n : at + 14 + 8 * n], 16) for n in range(13)]
        size, length = fields[6], fields[11]
        content = at + (110 + length + 3) // 4 * 4
        if data[at + 110 : at + 109 + length] == name.encode():
            return data[content : content + size]
        at = content + size
    return b""


def busybox(progress: Progress) -> bytes:
    """Return Debian's static busybox, fetched and verified by apt at the first use."""
    file = paths.cache() / "guest" / "busybox"
    if not file.exists():
        file.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(file.with_suffix(".lock")), progress.step("Guest user space: busybox") as step:
            deb, version = apt.download("busybox-static", mirrors.own_suite(), step)
            with tempfile.TemporaryDirectory(dir=file.parent) as folder:
                subprocess.run(["dpkg-deb", "-x", str(deb), folder], check=True)
                found = [path for path in Path(folder).glob("**/bin/busybox") if path.is_file()]
                if not found:
                    raise HarnessError(f"{deb.name} holds no busybox", advice=mirrors.INSTEAD)
                found[0].rename(file)
            deb.unlink()
            step.done(version)
    return file.read_bytes()


def tool_sources() -> dict[str, tuple[Path, ...]]:
    """Return each guest program's source files, headers included."""
    root = paths.INITRAMFS
    return {
        tool: tuple(sorted(file for file in (root / folder).glob("*") if file.suffix in (".c", ".h", ".S")))
        for tool, folder in TOOLS.items()
    }


def compile_tool(name: str, sources: Sequence[Path]) -> bytes:
    """Compile one guest program, statically linked. Raises HarnessError with gcc's messages."""
    units = [str(source) for source in sources if source.suffix != ".h"]
    if not units:
        raise HarnessError(f"the guest program {name} has no source", advice="restore initramfs/ from git")
    with tempfile.TemporaryDirectory() as folder:
        program = Path(folder) / name
        gcc(name, [*CFLAGS, "-o", str(program), *units])
        return program.read_bytes()


def tool(name: str, sources: Sequence[Path], compiler: str) -> bytes:
    """Return what ``compile_tool`` gives, and keep it: most builds need the same as the one before."""
    return kept(name, sources, (compiler, *CFLAGS), lambda: compile_tool(name, sources))


def kept(name: str, sources: Sequence[Path], by: Sequence[str], compile_it: Callable[[], bytes]) -> bytes:
    """Return a guest program, compiled anew only when its sources or ``by`` what it is compiled changed."""
    contents = [f"{source.name} {digest_of_file(source)}" for source in sources]
    wanted = digest_of(*by, *contents).encode()
    file = paths.cache() / "guest" / name
    with suppress(OSError):
        digest, _, program = file.read_bytes().partition(b"\n")
        if digest == wanted:
            return program
    program = compile_it()
    file.parent.mkdir(parents=True, exist_ok=True)
    # Complete under its name or not there, whoever else writes it now.
    new = file.with_name(f"{name}.{os.getpid()}")
    new.write_bytes(wanted + b"\n" + program)
    new.rename(file)
    return program


def gcc(name: str, arguments: Sequence[str]) -> None:
    """Run gcc for the guest program ``name``. Raises HarnessError with its messages."""
    result = subprocess.run(["gcc", *arguments], capture_output=True, text=True, check=False)
    if result.returncode != 0:
        raise HarnessError(
            f"the guest program {name} does not compile",
            details=result.stderr[-3000:],
            advice="correct its source in initramfs/; gcc needs libc6-dev (`make setup`)",
        )


def init_script(modules: Sequence[str], template: Path | None = None) -> bytes:
    """Render the first program of a guest, which loads ``modules`` in this order."""
    # Imported where it is used: most commands find their build in the store and need none of it.
    import jinja2

    file = template or paths.INITRAMFS / "init.j2"
    environment = jinja2.Environment(undefined=jinja2.StrictUndefined, keep_trailing_newline=True)
    try:
        return (
            environment.from_string(file.read_text(encoding="utf-8")).render(modules=list(modules)).encode()
        )
    except (OSError, jinja2.TemplateError) as error:
        raise HarnessError(f"cannot render {file}: {error}", advice="correct the template") from None


def base_archive(
    modules: Mapping[str, bytes],
    tools: Mapping[str, bytes],
    busybox: bytes,
    more: Mapping[str, File] | None = None,
) -> bytes:
    """Build the archive that every guest boots from.

    ``modules`` are loaded in their order; ``tools`` go to /bin; ``more`` are a definition's own files.
    Raises UsageError when one of these is where the guest has something already.
    """
    files = {"init": init_script(list(modules)), "bin/busybox": busybox}
    files |= {f"bin/{name}": content for name, content in tools.items()}
    files |= {f"lib/modules/{name}.ko": content for name, content in modules.items()}
    more = more or {}
    taken = {*files, *DEVICES, *HOST_FILES}
    for place in more:
        above = {str(folder) for folder in Path(place).parents}
        if (
            place in taken
            or above & {*taken, *more}
            or any(place in map(str, Path(n).parents) for n in taken)
        ):
            raise UsageError(
                f"the guest's file {place} is in the way of one that the guest has, or the other way round",
                advice="choose another place in the definition's `files`",
            )
    files |= {place: file.content for place, file in more.items()}
    return archive(files, DEVICES, {place: file.mode for place, file in more.items()})


def host_archive(
    base: bytes, bzimage: bytes, vmlinux: bytes | None, payload: bytes, initrd: bytes | None = None
) -> bytes:
    """Build the host kernel's archive: the common one, and behind it what can be spawned.

    ``vmlinux`` is for dialects that load an ELF image, None for the others; ``initrd`` is the spawned
    kernel's user space, where that is not ``base``.
    """
    files = {
        "boot/bzImage": bzimage,
        "boot/initrd": base if initrd is None else initrd,
        "boot/payload": payload,
    }
    if vmlinux is not None:
        files["boot/vmlinux"] = vmlinux
    return base + archive(files)


def stripped(vmlinux: Path) -> bytes:
    """Return an ELF file without its debugging sections and symbols, which a loader never reads."""
    with tempfile.TemporaryDirectory() as folder:
        slim = Path(folder) / "vmlinux"
        subprocess.run(
            ["strip", "--strip-all", "-o", str(slim), str(vmlinux)], check=True, capture_output=True
        )
        return slim.read_bytes()
