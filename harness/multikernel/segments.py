# SPDX-License-Identifier: MIT
"""kexec_load(2) for spawned kernels, as in v1: user space says where every segment goes."""

from __future__ import annotations

from harness.multikernel import calls
from harness.multikernel.kernel import Kernel

FLAGS = 62 << 16 | 0x10
"""x86-64 and KEXEC_MULTIKERNEL. Source: RFC v1 1/7."""
PAGE = 4096
"""Bytes; segments begin and end with pages."""
ON_CRASH, PRESERVE_CONTEXT = 0x1, 0x2
"""Other flags of kexec_load(2)."""
UNLOAD = f"kexec_load 0 0 null {FLAGS:#x}"
"""The call that unloads every spawned kernel's image."""


def load_call(segments: str, entry: int, flags: int = FLAGS) -> str:
    """Return the call that loads segments, each ``BUFSZ@MEM+MEMSZ`` in bytes, a comma between them."""
    return f"kexec_load {entry:#x} {segments.count('@')} segments:{segments} {flags:#x}"


def load(host: Kernel, segments: str, entry: int, flags: int = FLAGS) -> calls.Outcome:
    """Load segments."""
    return calls.call(host, load_call(segments, entry, flags), limit=10)
