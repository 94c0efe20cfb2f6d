# SPDX-License-Identifier: MIT
"""Running make in a kernel tree: as many jobs as fit, progress, messages, nothing left running."""

from __future__ import annotations

import os
import re
import resource
import shutil
import signal
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from harness import paths, process
from harness.build import messages
from harness.build.worktree import OUTPUT
from harness.errors import HarnessError
from harness.progress import Step

MEMORY_PER_JOB = 700 << 20
"""Bytes that one compiler takes at worst; linking vmlinux takes less than two of them."""

UNFINISHED = ".mkharness-unfinished"
"""In the build folder while make runs. Left behind by a kill, it means that an object may be cut
short without make noticing."""

CGROUPS = Path("/sys/fs/cgroup")

ESTIMATE_AFTER = 10.0
"""Seconds of a build from which its remaining time can be estimated."""

CC = "$(if $(filter %.S %/configs.c %/kheaders.c,$<),gcc,ccache gcc)"
"""The compiler, as make expands it in each recipe: no ccache for what may take in a file by .incbin.

piggy.S takes in the packed kernel. From ccache it came with that of an earlier build, whenever the
two were of one size.
"""

_FIXED = {
    "LC_ALL": "C.UTF-8",
    "KBUILD_BUILD_TIMESTAMP": "2025-01-01 00:00:00 UTC",
    "KBUILD_BUILD_USER": "mkharness",
    "KBUILD_BUILD_HOST": "mkharness",
    "KBUILD_BUILD_VERSION": "1",
    "LOCALVERSION": "",
}
_KEPT = ("PATH", "HOME", "TMPDIR", "LD_LIBRARY_PATH", "USER", "LOGNAME")


@dataclass(frozen=True)
class Made:
    """What one make did: how many commands it ran, the files they made, what was said, CPU seconds."""

    targets: tuple[str, ...]
    messages: tuple[messages.Message, ...]
    cpu: float

    @property
    def steps(self) -> int:
        """How many commands were run."""
        return len(self.targets)


def environment() -> dict[str, str]:
    """Return the environment of every make: nothing that changes what is built gets in."""
    kept = {key: os.environ[key] for key in _KEPT if key in os.environ}
    ccache = {"CCACHE_DIR": str(paths.cache() / "ccache"), "CCACHE_MAXSIZE": "5G"}
    # Without a run of the preprocessor before every compilation, a third of a cold build's time.
    # ccache then does not see what a file takes in by .incbin: see CC.
    ccache["CCACHE_DEPEND"] = "1"
    return {**kept, **_FIXED, **ccache}


def command(tree: Path) -> list[str]:
    """Return the make command for a tree, up to the targets."""
    words = ["make", "-C", str(tree), f"O={OUTPUT}", "--no-print-directory"]
    if shutil.which("ccache"):
        words += [f"CC={CC}", "HOSTCC=ccache gcc"]
    return words


def jobs() -> int:
    """Return how many compilers run at once: one per core, fewer when memory is short.

    What a container or a systemd slice allows counts, not only what the computer has.
    """
    cores = float(len(os.sched_getaffinity(0)))
    memory = re.search(r"^MemAvailable: *(\d+) kB", Path("/proc/meminfo").read_text(), re.MULTILINE)
    room = (int(memory[1]) << 10) if memory else MEMORY_PER_JOB
    for group in _cgroups():
        quota = _numbers(group / "cpu.max")
        if len(quota) == 2:
            cores = min(cores, quota[0] / quota[1])
        limit, used = _numbers(group / "memory.max"), _numbers(group / "memory.current")
        if limit and used:
            room = min(room, limit[0] - used[0])
    return max(1, min(int(cores), room // MEMORY_PER_JOB))


def _cgroups() -> list[Path]:
    """Return the control groups that this process is in, each of which may set a limit."""
    try:
        own = re.search(r"^0::/(.*)$", Path("/proc/self/cgroup").read_text(), re.MULTILINE)
    except OSError:
        return []
    folder = CGROUPS / (own[1] if own else "")
    return [folder, *(parent for parent in folder.parents if parent.is_relative_to(CGROUPS))]


def _numbers(file: Path) -> list[int]:
    """Return the numbers in a control group's file; none for "max" or no file."""
    try:
        words = file.read_text().split()
    except OSError:
        return []
    return [int(word) for word in words] if all(word.isdigit() for word in words) else []


def run(
    tree: Path,
    targets: Sequence[str],
    log: Path,
    step: Step,
    *,
    expected: int = 0,
    what: str = "the kernel",
    marker: Path | None = None,
) -> Made:
    """Run make in a tree; what it prints is added to ``log``.

    While it runs there is a file ``marker``, by default UNFINISHED in the build folder.
    ``expected`` is about how many commands there will be, 0 if unknown; ``what`` is made. make and
    all that it started end with the harness. Raises BuildError with the errors.
    """
    marker = marker or tree / OUTPUT / UNFINISHED
    marker.touch()
    reader = messages.Reader()
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    began = time.monotonic()
    argv = [*command(tree), f"-j{jobs()}", "--output-sync=target", *targets]
    options = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    with log.open("ab") as out, process.running(argv, env=environment(), **options) as child:
        assert child.stdout is not None
        try:
            for line in child.stdout:
                out.write(line)
                steps = reader.steps
                reader.feed(line.decode(errors="replace"))
                if reader.steps > steps:
                    step.update(_at(reader, expected, time.monotonic() - began))
            status = child.wait()
        finally:
            process.end(child)
            if child.returncode != -signal.SIGKILL:
                marker.unlink(missing_ok=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    made = Made(tuple(reader.targets), tuple(reader.messages), cpu)
    if status != 0:
        raise BuildError(f"{what} does not compile: make ended with status {status}", made, log)
    return made


def _at(reader: messages.Reader, expected: int, elapsed: float) -> str:
    """Say how far a build is, and about how long it will take."""
    done, now = reader.steps, reader.targets[-1].rpartition(f"{OUTPUT}/")[2]
    if done > expected:
        return f"{done:,}, {now}"
    left = f", about {elapsed / done * (expected - done):.0f} s left" if elapsed > ESTIMATE_AFTER else ""
    return f"{done:,} of about {expected:,}{left}, {now}"


class BuildError(HarnessError):
    """make failed; ``made`` is what it did until then."""

    def __init__(self, why: str, made: Made, log: Path) -> None:
        found = messages.errors(made.messages)
        details = [str(message) for message in found[:10]]
        if len(found) > 10:
            details.append(f"... and {len(found) - 10} errors more")
        super().__init__(
            why,
            details="\n".join(details) or "\n".join(log.read_text(errors="replace").splitlines()[-15:]),
            advice=f"{_advice(found)}; the whole log is {log}",
        )
        self.made = made


def _advice(found: Sequence[messages.Message]) -> str:
    said = "\n".join(str(message) for message in found)
    if messages.NO_ROOM in said:
        return "the disk is full: free some space, or set MKHARNESS_CACHE or TMPDIR to another disk"
    if re.search(messages.KILLED, said):
        return "a compiler was killed, most likely since memory ran out: end other programs, and try again"
    return "correct the series or the configuration"
