# SPDX-License-Identifier: MIT
"""A configured tree in, a compiled kernel and its modules out.

The same inputs give the same bytes: time, user, host and version number of the build are fixed,
and every path is relative. ccache is used where it is installed.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from harness import paths, process
from harness.build import kconfig
from harness.build.worktree import OUTPUT, remove
from harness.errors import HarnessError
from harness.progress import Step

MEMORY_PER_JOB = 700 << 20
"""Bytes that one compiler takes at worst; linking vmlinux takes less than two of them."""

UNFINISHED = ".mkharness-unfinished"
"""In the build folder while make runs. Left behind by a kill, it means that an object may be cut
short without make noticing."""

MADE = ("*.o", "*.ko", "*.mod", "*.mod.c", ".*", "modules.order", "Module.symvers")
"""What make leaves beside a module's sources."""

STEPS = "mkharness-steps"
"""Remembers how many commands a whole build has, for the next one's progress."""

_FIXED = {
    "LC_ALL": "C.UTF-8",
    "KBUILD_BUILD_TIMESTAMP": "2025-01-01 00:00:00 UTC",
    "KBUILD_BUILD_USER": "mkharness",
    "KBUILD_BUILD_HOST": "mkharness",
    "KBUILD_BUILD_VERSION": "1",
    "LOCALVERSION": "",
}
_KEPT = ("PATH", "HOME", "TMPDIR", "LD_LIBRARY_PATH", "USER", "LOGNAME")
_ERROR = re.compile(r"\berror:|undefined reference|^make.*\*\*\*|: fatal |^ERROR:|Error \d+$", re.IGNORECASE)


@dataclass(frozen=True)
class Kernel:
    """What a build left: files in the build folder, and the release string (``7.3.4``)."""

    bzimage: Path
    vmlinux: Path
    config: Path
    release: str


def compiler() -> str:
    """Name compiler and linker with their versions, as a part of a build's identity."""
    names = []
    for tool in ("gcc", "ld"):
        try:
            said = subprocess.run([tool, "--version"], capture_output=True, text=True, check=True).stdout
        except (OSError, subprocess.CalledProcessError):
            raise HarnessError(f"{tool} does not run", advice="run `make setup`") from None
        names.append(said.splitlines()[0])
    return ", ".join(names)


def environment() -> dict[str, str]:
    """Return the environment of every make: nothing that changes what is built gets in."""
    kept = {key: os.environ[key] for key in _KEPT if key in os.environ}
    ccache = {"CCACHE_DIR": str(paths.cache() / "ccache"), "CCACHE_MAXSIZE": "5G"}
    return {**kept, **_FIXED, **ccache}


def make_command(tree: Path) -> list[str]:
    """Return the make command for a tree, up to the targets."""
    command = ["make", "-C", str(tree), f"O={OUTPUT}", "--no-print-directory"]
    if shutil.which("ccache"):
        command += ["CC=ccache gcc", "HOSTCC=ccache gcc"]
    return command


def jobs() -> int:
    """Return how many compilers run at once: one per core, fewer when memory is short."""
    cores = len(os.sched_getaffinity(0))
    memory = re.search(r"^MemAvailable: *(\d+) kB", Path("/proc/meminfo").read_text(), re.MULTILINE)
    room = (int(memory[1]) << 10) // MEMORY_PER_JOB if memory else cores
    return max(1, min(cores, room))


def compile_kernel(tree: Path, wishes: Sequence[kconfig.Wish], log: Path, step: Step) -> Kernel:
    """Configure and compile a tree; its earlier build folder is used as far as it goes.

    ``log`` gets everything that make prints. Raises HarnessError with the compiler's messages.
    """
    output = tree / OUTPUT
    if (output / UNFINISHED).exists():
        remove(output)
    fresh = not (output / "vmlinux").exists()
    output.mkdir(exist_ok=True)
    log.write_bytes(b"")
    step.update("configuring")
    kconfig.configure(tree, output, wishes, make_command(tree), environment())
    targets = ["bzImage"]
    if kconfig.values(output / ".config").get("MODULES") == "y":
        targets.append("modules")
    done = run_make(tree, targets, log, step, expected=_expected(tree.parent, fresh))
    if fresh:
        (tree.parent / STEPS).write_text(str(done))
    step.done(f"{done:,} steps")
    return outputs(tree)


def outputs(tree: Path) -> Kernel:
    """Return the files of a tree that was compiled before."""
    output = tree / OUTPUT
    return Kernel(
        bzimage=output / "arch/x86/boot/bzImage",
        vmlinux=output / "vmlinux",
        config=output / ".config",
        release=(output / "include/config/kernel.release").read_text().strip(),
    )


def compile_modules(tree: Path, modules: Sequence[Path], dialect: str, log: Path, step: Step) -> list[Path]:
    """Compile the guest modules in the folders ``modules`` against a compiled tree; return the .ko files.

    The sources are copied, so nothing is written beside them; what did not change is not compiled
    again. One make does all, since each takes half a second to find out that there is nothing to do.
    """
    folder = tree.parent / "modules"
    if (folder / UNFINISHED).exists():
        remove(folder)
    folder.mkdir(exist_ok=True)
    for module in modules:
        if not (module / "Kbuild").is_file() and not (module / "Makefile").is_file():
            raise HarnessError(
                f"there is no guest module {module}", advice="correct `modules` in the definition"
            )
        # What changed gets the present time, which make goes by.
        command = ["rsync", "-rlp", "--checksum", "--delete", *(f"--exclude={name}" for name in MADE)]
        subprocess.run([*command, f"{module}/", f"{folder / module.name}/"], check=True, capture_output=True)
    if not modules:
        return []
    (folder / "Kbuild").write_text("".join(f"obj-m += {module.name}/\n" for module in modules))
    targets = [f"M={folder}", f"MKMSG_API={dialect}", "modules"]
    run_make(tree, targets, log, step, marker=folder / UNFINISHED)
    return [folder / module.name / f"{module.name}.ko" for module in modules]


def run_make(
    tree: Path,
    targets: Sequence[str],
    log: Path,
    step: Step,
    *,
    expected: int = 0,
    marker: Path | None = None,
) -> int:
    """Run make in a tree and return the number of its steps; what it prints is added to ``log``.

    While it runs there is a file ``marker``, by default UNFINISHED in the build folder. make and all
    that it started end with the harness. Raises HarnessError with the errors.
    """
    marker = marker or tree / OUTPUT / UNFINISHED
    marker.touch()
    count = 0
    about = f" of about {expected:,}" if expected else ""
    with (
        log.open("ab") as out,
        process.running(
            [*make_command(tree), f"-j{jobs()}", *targets],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=environment(),
        ) as child,
    ):
        assert child.stdout is not None
        try:
            for line in child.stdout:
                out.write(line)
                if line.startswith(b"  ") and line[2:3].isupper():
                    count += 1
                    at = line.decode(errors="replace").split()[-1].removeprefix(f"{tree / OUTPUT}/")
                    step.update(f"{count:,}{about}, {at}")
            status = child.wait()
        finally:
            process.end(child)
            if child.returncode != -signal.SIGKILL:
                marker.unlink(missing_ok=True)
    if status != 0:
        raise HarnessError(
            f"the kernel does not compile: make {targets[0]} ended with status {status}",
            details=errors_in(log.read_text(errors="replace")),
            advice=f"correct the series or the configuration; the whole log is {log}",
        )
    return count


def errors_in(log: str) -> str:
    """Cut the errors out of a build log, with the lines that belong to each."""
    lines = log.splitlines()
    kept: list[str] = []
    for at, line in enumerate(lines):
        if not _ERROR.search(line) or len(kept) > 40:
            continue
        if at and re.search(r": (In function|At top level|in expansion)|^In file included", lines[at - 1]):
            kept.append(lines[at - 1])
        kept.append(line)
        for below in lines[at + 1 : at + 4]:
            if not re.match(r"\s+\d* *\|", below):
                break
            kept.append(below)
    if any("No space left on device" in line for line in lines):
        kept.append("the disk is full")
    # Compilers run inside the build folder, which is inside the tree.
    return "\n".join(line.removeprefix("../") for line in kept) or "\n".join(lines[-15:])


def _expected(folder: Path, fresh: bool) -> int:
    """Return how many steps a whole build had last time, 0 if unknown or not a whole build."""
    if not fresh:
        return 0
    try:
        return int((folder / STEPS).read_text())
    except (OSError, ValueError):
        return 1500
