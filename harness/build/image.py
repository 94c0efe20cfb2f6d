# SPDX-License-Identifier: MIT
"""A bzImage taken apart: its header, the kernel packed in it, and whether that is a given vmlinux."""

from __future__ import annotations

import bz2
import io
import lzma
import struct
import subprocess
import zlib
from dataclasses import dataclass
from pathlib import Path

from elftools.common.exceptions import ELFError
from elftools.elf.elffile import ELFFile

from harness.errors import HarnessError, UsageError

LARGEST = 1 << 30
"""Bytes that a kernel may unpack to."""

_PROGRAMS = {
    b"\x28\xb5\x2f\xfd": ["zstd", "-dcq"],
    b"\x02\x21\x4c\x18": ["lz4", "-dcq"],
    b"\x89LZO": ["lzop", "-dcq"],
}


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


def carries(image: Image, vmlinux: bytes) -> bool:
    """Whether an image was packed from a vmlinux: what both load, and where, is the same.

    Raises HarnessError when the image cannot be unpacked.
    """
    return _loaded(unpacked(image.packed)) == _loaded(vmlinux)


def _loaded(elf: bytes) -> list[tuple[int, bytes]]:
    """Return what an ELF file loads, as physical address and bytes. Packing strips all else of it."""
    try:
        segments = list(ELFFile(io.BytesIO(elf)).iter_segments("PT_LOAD"))
        return [(segment["p_paddr"], segment.data()) for segment in segments if segment["p_filesz"]]
    except (ELFError, struct.error) as error:
        raise HarnessError(f"cannot read the kernel's ELF file: {error}", advice="build it anew") from None
