# SPDX-License-Identifier: MIT
"""A kernel image built elsewhere, made ready to boot here in seconds, without a definition.

The guests' user space is the usual one. Guest modules cannot be built without the image's tree, so
what needs them is absent.
"""

from __future__ import annotations

import bz2
import gzip
import lzma
import struct
import subprocess
import time
import zlib
from dataclasses import dataclass
from pathlib import Path

import msgspec
from filelock import FileLock

from harness import paths
from harness.build import ELF_DIALECTS, Build, initramfs, kernel, messages, payload, store
from harness.build.guest import guest_inputs
from harness.build.inputs import digest_of_bytes
from harness.definition import DIALECTS, Definition, load_definition
from harness.errors import HarnessError, UsageError
from harness.progress import Progress

MARKS = (
    # What an image says of itself, what is special first.
    ("reference", b"multikernel: no memory pool, mkkernel_pool="),
    ("v1", b"/proc/multikernel"),
    ("v2", b"mkkernel_pool"),
)
WITH_MODULES = {"faults", "messages", "ssh"}
"""Capabilities that an image does not have here: they take a guest module, or a definition's archive."""

LARGEST = 1 << 30
"""Bytes that a kernel may unpack to."""

_PROGRAMS = {b"\x28\xb5\x2f\xfd": ["zstd", "-dcq"], b"\x02\x21\x4c\x18": ["lz4", "-dcq"]}


@dataclass(frozen=True)
class Image:
    """A bzImage: its content, its release (``7.3.4``), and the kernel in it, still packed."""

    content: bytes
    release: str
    packed: bytes


def read_image(file: Path) -> Image:
    """Read a bzImage by its header. Raises UsageError when it is none."""

    def refused(why: str) -> UsageError:
        return UsageError(f"{file} is no bzImage for x86: {why}", advice="give arch/x86/boot/bzImage")

    try:
        content = file.read_bytes()
    except OSError as error:
        raise UsageError(f"cannot read {file}: {error}", advice="correct the path") from None
    if content[0x202:0x206] != b"HdrS":
        raise refused(
            "it is an ELF file, a vmlinux?" if content[:4] == b"\x7fELF" else "it has no HdrS at 0x202"
        )
    try:
        (version,) = struct.unpack_from("<H", content, 0x20E)
        text = content[0x200 + version :].partition(b"\0")[0][:200].decode(errors="replace")
        offset, length = struct.unpack_from("<II", content, 0x248)
    except struct.error:
        raise refused("it is cut off in its header") from None
    start = ((content[0x1F1] or 4) + 1) * 512 + offset
    if not text or not length or start + length > len(content):
        raise refused("it is cut off, or older than Linux 2.6.26")
    return Image(content, text.split(" ")[0], content[start : start + length])


def unpacked(packed: bytes) -> bytes:
    """Return the ELF kernel that a bzImage holds. Raises HarnessError when it cannot be unpacked."""
    try:
        if packed[:2] == b"\x1f\x8b":
            found = zlib.decompressobj(31).decompress(packed, LARGEST)
        elif packed[:6] == b"\xfd7zXZ\0":
            found = lzma.LZMADecompressor(lzma.FORMAT_XZ).decompress(packed, LARGEST)
        elif packed[:3] == b"\x5d\0\0":
            found = lzma.LZMADecompressor(lzma.FORMAT_ALONE).decompress(packed, LARGEST)
        elif packed[:3] == b"BZh":
            found = bz2.BZ2Decompressor().decompress(packed, LARGEST)
        elif packed[:4] in _PROGRAMS:
            # What follows the stream is its length, which these programs complain of.
            result = subprocess.run(_PROGRAMS[packed[:4]], input=packed, capture_output=True, check=False)
            found = result.stdout
        else:
            found = packed
    except (OSError, EOFError, ValueError, zlib.error, lzma.LZMAError) as error:
        raise HarnessError(f"cannot unpack the kernel: {error}", advice="give it with --vmlinux") from None
    if found[:4] != b"\x7fELF":
        raise HarnessError(
            "the image holds no ELF kernel that can be unpacked", advice="give it with --vmlinux"
        )
    return found


def dialect_of(kernel_image: bytes) -> str:
    """Return the dialect that a kernel's own strings tell. Raises UsageError when they tell none."""
    for dialect, mark in MARKS:
        if mark in kernel_image:
            return dialect
    raise UsageError(
        "the image does not look like any series that is known here",
        advice=f"say with --dialect how it is driven: {', '.join(DIALECTS)}",
    )


def config_of(kernel_image: bytes) -> bytes:
    """Return the configuration that a kernel built with IKCONFIG holds, else a comment that there is none."""
    _, found, rest = kernel_image.partition(b"IKCFG_ST")
    if found:
        try:
            return gzip.decompress(rest.partition(b"IKCFG_ED")[0])
        except (OSError, EOFError, zlib.error):
            pass
    return b"# The image does not hold its configuration.\n"


def own_build(bzimage: Path, vmlinux: Path | None, dialect: str | None, progress: Progress) -> Build:
    """Make an image ready to boot. Without ``vmlinux`` there are no symbols, without ``dialect`` it is found.

    Raises UsageError when the files are not what they should be, or no dialect fits.
    """
    image = read_image(bzimage)
    try:
        elf = vmlinux.read_bytes() if vmlinux is not None else unpacked(image.packed)
    except OSError as error:
        raise UsageError(f"cannot read {vmlinux}: {error}", advice="correct the path") from None
    if elf[:4] != b"\x7fELF":
        raise UsageError(f"{vmlinux} is no ELF file", advice="give the vmlinux of the same build")
    definition = _definition(dialect or dialect_of(elf))
    busybox = initramfs.busybox(progress)
    inputs = {
        "bzImage": digest_of_bytes(image.content),
        "vmlinux": digest_of_bytes(elf),
        "compiler": kernel.compiler(),
        **guest_inputs(definition, busybox, {}, []),
    }
    digest = store.digest(inputs)
    paths.cache().mkdir(parents=True, exist_ok=True)
    # Not the build lock: an image need not wait until somebody's kernel is compiled.
    with FileLock(paths.cache() / "own.lock"):
        entry = store.find(digest)
        reused = entry is not None
        if entry is None:
            meta = store.Meta(definition.name, f"{bzimage}", created=time.time(), inputs=inputs)
            with store.adding(digest) as new, progress.step(f"Image {bzimage.name}") as step:
                _fill(new, image, elf, definition, busybox)
                store.write_meta(new, meta, image.release)
                step.done(f"{len(image.content) / 1e6:.1f} MB")
            entry = store.find(digest)
    progress.console.print(
        f"{bzimage.name}: Linux {image.release}, driven as {definition.name}; without its source no guest "
        f"modules, so no {' or '.join(sorted(WITH_MODULES))}",
        markup=False,
    )
    assert entry is not None, f"the image {digest} was stored and is not there"
    return Build(definition, digest, image.release, entry, str(bzimage), reused)


def _fill(entry: Path, image: Image, elf: bytes, definition: Definition, busybox: bytes) -> None:
    tools = {
        name: initramfs.tool(name, sources, kernel.compiler())
        for name, sources in initramfs.tool_sources().items()
    }
    base = initramfs.base_archive({}, tools, busybox)
    (entry / "bzImage").write_bytes(image.content)
    (entry / "vmlinux").write_bytes(elf)
    (entry / "config").write_bytes(config_of(elf))
    (entry / "initrd.cpio").write_bytes(base)
    slim = initramfs.stripped(entry / "vmlinux") if definition.dialect in ELF_DIALECTS else None
    small = payload.payload(kernel.compiler())
    (entry / "host-initrd.cpio").write_bytes(initramfs.host_archive(base, image.content, slim, small))
    (entry / store.REPORT).write_bytes(b"[]")
    (entry / store.WARNINGS).write_bytes(msgspec.json.encode(messages.split((), ())))


def _definition(dialect: str) -> Definition:
    """Return how an image of a dialect is driven: as by the definition that is shipped for it."""
    found = [load_definition(file.stem) for file in paths.KERNELS.glob("*.toml") if "." not in file.stem]
    of_dialect = [definition for definition in found if definition.dialect == dialect]
    if not of_dialect:
        raise UsageError(f"there is no dialect {dialect!r}", advice=f"write one of: {', '.join(DIALECTS)}")
    # Of several, the shortest name is the plain one: reference, not reference-ssh.
    shipped = min(of_dialect, key=lambda definition: len(definition.name))
    return msgspec.structs.replace(
        shipped,
        modules=(),
        files={},
        ssh=False,
        # What is compiled in for tests alone, nobody's image need have.
        expects=tuple(name for name in shipped.expects if name not in {*WITH_MODULES, "kho-tests"}),
    )
