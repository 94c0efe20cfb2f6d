# SPDX-License-Identifier: MIT
"""A kernel image built elsewhere, made ready to boot here in seconds, without a definition.

The guests' user space is the usual one. Guest modules cannot be built without the image's tree, so
what needs them is absent.
"""

from __future__ import annotations

import gzip
import time
import zlib
from pathlib import Path

import msgspec
from filelock import FileLock

from harness import paths
from harness.build import ELF_DIALECTS, Build, initramfs, kernel, messages, payload, store
from harness.build.guest import guest_inputs
from harness.build.image import Image, carries, read_image, unpacked
from harness.build.inputs import digest_of_bytes
from harness.definition import DIALECTS, Definition, load_definition
from harness.errors import UsageError
from harness.progress import Progress

MARKS = (
    # What an image says of itself, what is special first.
    ("reference", b"multikernel: no memory pool, mkkernel_pool="),
    ("v1", b"/proc/multikernel"),
    ("v2", b"mkkernel_pool"),
)
WITH_MODULES = {"faults", "messages", "ssh"}
"""Capabilities that an image does not have here: they take a guest module, or a definition's archive."""


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
    if vmlinux is not None and not carries(image, elf):
        raise UsageError(
            f"{bzimage} was not packed from {vmlinux}: their code or data differs",
            advice="give the vmlinux of the same build",
        )
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
