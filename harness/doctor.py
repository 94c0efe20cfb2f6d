# SPDX-License-Identifier: MIT
"""What this computer lacks for building and running kernels, found by trying, and how to mend it."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import resource
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import msgspec
from packaging.requirements import Requirement

from harness import needs, paths, process
from harness.build import mirrors, source
from harness.definition import DebianBase, load_definition, load_topology
from harness.errors import HarnessError
from harness.vm import accel, memory

State = Literal["good", "missing", "optional"]

INSTALL = "sudo apt-get update && sudo apt-get install -y --no-install-recommends"
BUILD_ROOM = 8 << 30
"""Bytes for the source of one kernel, unpacked and patched, its build and ccache: 6 GB, and some air."""
HELD_BACK = 1 << 30
"""Bytes of memory beside a guest's: QEMU's own, the harness's, a compiler's."""
FILES = 512
"""Files that a process must be able to open: a machine takes some twenty."""


class Finding(msgspec.Struct, frozen=True):
    """One thing that was tried. ``optional`` is what is absent and need not be there.

    ``why`` is what was seen, or what is wrong; ``command`` mends it, empty where no command does.
    """

    what: str
    state: State
    why: str
    command: str = ""


def examine() -> Iterator[Finding]:
    """Try what mkharness needs on this computer, one thing after another."""
    yield _processor()
    yield from map(_package, needs.read())
    yield from _python()
    yield _acceleration()
    yield from _guest_memory()
    yield _disk()
    yield _cores()
    yield _kernel_source()
    yield _other_process()
    yield _limits()
    yield _locale()


def _processor() -> Finding:
    machine = f"{platform.system()} {platform.machine()}"
    if machine == "Linux x86_64":
        return Finding("processor", "good", machine)
    return Finding("processor", "missing", f"{machine}; kernels are built for, and by, Linux on x86_64")


def _package(need: needs.Need) -> Finding:
    works, said = needs.attempt(need)
    if works:
        return Finding(need.package, "good", said)
    why = f"{need.why}: {said}"
    return Finding(need.package, "optional" if need.optional else "missing", why, f"{INSTALL} {need.package}")


def _python() -> Iterator[Finding]:
    pip = f"{sys.executable} -m pip install"
    found = sys.version.split()[0]
    new = sys.version_info >= (3, 11)
    again = "rm -r .venv; make setup PYTHON=/path/to/python3"
    why = found if new else f"{found}; 3.11 is needed"
    yield Finding("python", "good" if new else "missing", why, "" if new else again)
    for text in importlib.metadata.requires("mkharness") or ():
        wanted = Requirement(text)
        if wanted.marker is None:
            yield _module(wanted, "missing", "", pip)
    yield _module(Requirement("b4"), "optional", "fetches a series by its message-id", pip)
    yield _module(Requirement("drgn"), "optional", "to look into a kernel's memory", pip)


def _module(wanted: Requirement, otherwise: State, use: str, pip: str) -> Finding:
    what = f"python: {wanted.name}"
    try:
        version = importlib.metadata.version(wanted.name)
    except importlib.metadata.PackageNotFoundError:
        return Finding(what, otherwise, use or "not installed", f"{pip} '{wanted}'")
    if wanted.specifier.contains(version, prereleases=True):
        return Finding(what, "good", version)
    return Finding(what, otherwise, f"{version}; {wanted.specifier} is needed", f"{pip} '{wanted}'")


def _acceleration() -> Finding:
    found = accel.probe()
    if found.verdict is accel.Verdict.GOOD:
        return Finding("KVM", "good", found.text)
    allow = "sudo usermod -aG kvm $USER, and log in again"
    command = allow if found.verdict is accel.Verdict.NO_PERMISSION else ""
    return Finding("KVM", "optional", f"{found.text}; TCG is used, which is slower", command)


def _guest_memory() -> Iterator[Finding]:
    size = load_topology("pair").memory_mib << 20
    wanted = f"{size >> 20:,} MiB for a machine"
    try:
        with memory.open_ram(size, [memory.SHM]):
            free = memory.room(memory.SHM) >> 20
            yield Finding("/dev/shm", "good", f"{free:,} MiB free, {wanted}")
    except HarnessError as error:
        larger = f"sudo mount -o remount,size={4 * size >> 30}G {memory.SHM}"
        why = f"{error.details}, {wanted}; guests are kept on disk instead, which is slower"
        yield Finding("/dev/shm", "optional", why, larger)
    with open("/proc/meminfo", encoding="ascii") as file:
        fields = dict(line.split(":") for line in file)
    free = int(fields["MemAvailable"].split()[0]) << 10
    why = f"{free >> 20:,} MiB available, {wanted} and {HELD_BACK >> 20:,} MiB beside it"
    yield Finding("memory", "good" if free >= size + HELD_BACK else "missing", why)


def _disk() -> Finding:
    cache = paths.cache()
    what = f"cache {cache}"
    another = "export MKHARNESS_CACHE=/path/on/a/larger/disk"
    try:
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=cache) as file:
            file.write(b"1")
    except OSError as error:
        return Finding(what, "missing", f"cannot be written to: {error.strerror}", another)
    free = shutil.disk_usage(cache).free
    why = f"{free / 1e9:.0f} GB free, {BUILD_ROOM / 1e9:.0f} GB for a first build"
    if free >= BUILD_ROOM:
        return Finding(what, "good", why)
    return Finding(what, "missing", why, f"mkh store gc --keep-days 0, or {another}")


def _cores() -> Finding:
    count = len(os.sched_getaffinity(0))
    if count > 1:
        return Finding("cores", "good", f"{count}")
    return Finding("cores", "optional", "1; a build takes long, and timing tests are coarse")


def _kernel_source() -> Finding:
    what = "kernel source"
    bases = load_definition("reference").bases
    for base in bases:
        known = source.recorded(base)
        if known is not None:
            return Finding(what, "good", f"cached: {known.version}")
    suites = [suite for base in bases if isinstance(base, DebianBase) for suite in base.suites]
    failures = []
    try:
        for mirror in mirrors.mirrors():
            for suite in dict.fromkeys(suites):
                said = _fetch(f"{mirror.uri.rstrip('/')}/dists/{suite}/InRelease")
                if said is None:
                    return Finding(what, "good", f"not fetched yet; a mirror of Debian serves {suite}")
                failures.append(said)
    except HarnessError as error:
        failures.append(error.what)
    return Finding(what, "missing", f"no mirror serves it: {failures[-1]}", mirrors.INSTEAD)


def _fetch(address: str) -> str | None:
    """Fetch a file as apt does, with its proxy and certificates; return what went wrong, None if nothing."""
    with tempfile.TemporaryDirectory(prefix="mkh-doctor-") as folder:
        command = ["/usr/lib/apt/apt-helper", "-o", "Acquire::Retries=0", "download-file", address]
        try:
            done = subprocess.run(
                [*command, f"{folder}/file"], capture_output=True, text=True, timeout=needs.LIMIT, check=False
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            return str(error)
        errors = [line for line in (done.stdout + done.stderr).splitlines() if line.startswith("E:")]
        return None if Path(folder, "file").is_file() else (errors or ["nothing was fetched"])[-1]


def _other_process() -> Finding:
    """Read a child's page map and memory, as forks' memory is read from QEMU."""
    what = "children's memory"
    child = process.popen(["sleep", "60"])
    try:
        with open(f"/proc/{child.pid}/mem", "rb"), open(f"/proc/{child.pid}/pagemap", "rb"):
            return Finding(what, "good", "/proc/PID/mem and pagemap can be read")
    except OSError as error:
        mend = "sudo sysctl kernel.yama.ptrace_scope=1; in a container: --cap-add SYS_PTRACE"
        return Finding(what, "missing", f"what guests write is read from QEMU: {error}", mend)
    finally:
        process.end(child)


def _limits() -> Finding:
    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    largest, _ = resource.getrlimit(resource.RLIMIT_FSIZE)
    if 0 <= files < FILES:
        why = f"{files} open files, {FILES} are needed"
        return Finding("limits", "missing", why, f"ulimit -n {2 * FILES}")
    if largest != resource.RLIM_INFINITY:
        why = f"files of at most {largest >> 20:,} MiB; guest memory is one file"
        return Finding("limits", "missing", why, "ulimit -f unlimited")
    return Finding("limits", "good", f"{files:,} open files, files of any size")


def _locale() -> Finding:
    # Not sys.stdout: a live display stands in for that.
    encoding = sys.__stdout__.encoding.lower() if sys.__stdout__ else "none"
    if encoding == "utf-8":
        return Finding("locale", "good", "UTF-8")
    why = f"output is {encoding}; tables are drawn in UTF-8"
    return Finding("locale", "optional", why, "export LC_ALL=C.UTF-8")
