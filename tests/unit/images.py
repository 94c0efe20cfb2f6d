# SPDX-License-Identifier: MIT
"""Kernel images for the tests of what makes and reads them: ELF files, and a bzImage that holds one.

A Makefile of a few lines makes them of its sources by TO_ELF and TO_BZIMAGE.
"""

from __future__ import annotations

import struct
import subprocess
import sys
from pathlib import Path

TO_ELF, TO_BZIMAGE = (f"{sys.executable} {Path(__file__).resolve()} {what}" for what in ("elf", "bzimage"))
"""Commands from standard input to standard output."""


def elf(content: bytes) -> bytes:
    """Return an ELF file that loads ``content``, and no more."""
    header = struct.pack(
        "<4sBBB9xHHIQQQIHHHHHH", b"\x7fELF", 2, 1, 1, 2, 62, 1, 0, 64, 0, 0, 64, 56, 1, 0, 0, 0
    )
    segment = struct.pack("<IIQQQQQQ", 1, 5, 120, 0x1000000, 0x1000000, len(content), len(content), 4096)
    return header + segment + content


def program(folder: Path, text: str) -> bytes:
    """Compile an ELF program that holds a text."""
    (folder / "x.c").write_text(f'const char text[] = "{text}"; int main(void) {{ return text[1]; }}\n')
    subprocess.run(["gcc", "-o", folder / "program", folder / "x.c"], check=True)
    return (folder / "program").read_bytes()


def bzimage(packed: bytes, version: bytes = b"7.3.4-mine (a@b) #1\0") -> bytes:
    """Write an image as Documentation/arch/x86/boot.rst says, with one sector of setup."""
    header = bytearray(1024)
    header[0x1F1] = 1
    header[0x202:0x206] = b"HdrS"
    struct.pack_into("<H", header, 0x20E, 0x100)
    struct.pack_into("<II", header, 0x248, 16, len(packed))
    header[0x300 : 0x300 + len(version)] = version
    return bytes(header) + bytes(16) + packed + b"behind"


if __name__ == "__main__":
    make = {"elf": elf, "bzimage": bzimage}[sys.argv[1]]
    sys.stdout.buffer.write(make(sys.stdin.buffer.read()))
