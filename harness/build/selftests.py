# SPDX-License-Identifier: MIT
"""The kernel's own tests of KHO and LUO, compiled unchanged from a source tree, for guests.

As their vmtest.sh does it: static programs on the tree's own headers and its small C library (nolibc).
"""

from __future__ import annotations

import subprocess
import tempfile
from pathlib import Path

import msgspec
from filelock import FileLock

from harness import paths
from harness.build import Build, initramfs, store
from harness.build.kernel import compiler
from harness.errors import HarnessError
from harness.progress import Step

TESTS = Path("tools/testing/selftests")
PROGRAMS = {
    name: (f"liveupdate/{name}.c", "liveupdate/lib/lu_utils.c")
    for name in (
        "liveupdate",
        "luo_kexec_simple",
        "luo_multi_session",
        "luo_stress_files",
        "luo_stress_sessions",
    )
} | {"kho": ("kho/init.c",)}
"""Programs, and the sources of each below TESTS."""
CFLAGS = ("-static", "-s", "-Os", "-nostdinc", "-nostdlib", "-fno-asynchronous-unwind-tables", "-fno-ident")


def selftests(build: Build, step: Step) -> dict[str, bytes]:
    """Compile PROGRAMS from the source of a build, and keep them for the next time.

    Raises HarnessError when that source has no such tests, or they do not compile.
    """
    tree = paths.cache() / "sources" / store.read_meta(build.folder).source_tree
    sources = [tree / TESTS / source for names in PROGRAMS.values() for source in names]
    missing = [source for source in sources if not source.is_file()]
    if missing:
        raise HarnessError(f"{build.source} has no {missing[0].relative_to(tree)}")
    # Headers and library are the tree's, which has a name for its content.
    by = (compiler(), tree.name, *CFLAGS)
    with FileLock(paths.cache() / "guest" / "selftests.lock"):
        kept = initramfs.kept("selftests", sources, by, lambda: msgspec.msgpack.encode(_compile(tree, step)))
    return msgspec.msgpack.decode(kept, type=dict[str, bytes])


def _compile(tree: Path, step: Step) -> dict[str, bytes]:
    programs = {}
    with tempfile.TemporaryDirectory() as folder:
        step.update("installing the kernel's headers")
        make = ["make", "-s", "-C", str(tree), f"O={folder}/out", f"INSTALL_HDR_PATH={folder}"]
        done = subprocess.run([*make, "headers_install"], capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise HarnessError("the kernel's headers cannot be installed", details=done.stderr[-3000:])
        include = (
            f"{folder}/include",
            tree / "tools/include/nolibc",
            tree / TESTS / "liveupdate/lib/include",
        )
        for name, sources in PROGRAMS.items():
            step.update(f"compiling {name}")
            program = Path(folder) / name
            files = [str(tree / TESTS / source) for source in sources]
            initramfs.gcc(name, [*CFLAGS, *(f"-I{path}" for path in include), "-o", str(program), *files])
            programs[name] = program.read_bytes()
    return programs
