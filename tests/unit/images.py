# SPDX-License-Identifier: MIT
"""Kernel images for the tests of what reads them: an ELF program, and a bzImage that holds one."""

from __future__ import annotations

import struct
import subprocess
from pathlib import Path


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
