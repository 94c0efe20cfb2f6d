# SPDX-License-Identifier: MIT
"""`mkh bench`: what the harness costs, as ratios within one run.

Both things of a ratio alternate, so that a busy computer slows both; medians are compared. Seconds
are printed for people, and compared by nobody.
"""

from __future__ import annotations

import os
import select
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from rich.table import Table

from harness import process
from harness.errors import HarnessError
from harness.forks import Forks
from harness.lab import Lab, machine_spec
from harness.progress import Progress
from harness.vm import accel as acceleration
from harness.vm.accel import Accel
from harness.vm.console import printed
from harness.vm.machine import QEMU, Machine
from harness.vm.ram import ram_of
from harness.vm.ram_scan import digests
from harness.vm.spec import MachineSpec

BARE_LIMIT = 300.0
"""Seconds that a bare QEMU has to boot."""


@dataclass(frozen=True)
class Figure:
    """One measured figure: ``value`` is a ratio of medians, or seconds where ``against`` is empty.

    ``limit`` is the most that is good, or the least where ``at_least`` is set.
    """

    key: str
    what: str
    against: str
    value: float
    limit: float
    at_least: bool
    seconds: tuple[float, ...]

    @property
    def good(self) -> bool:
        """Whether the figure keeps its limit."""
        return self.value >= self.limit if self.at_least else self.value <= self.limit


def run(forks: Forks, progress: Progress, rounds: int) -> list[Figure]:
    """Measure everything, ``rounds`` times each. Raises HarnessError when something does not work."""
    quiet = Progress(progress.quiet_console())
    build, topology, accel = forks.build, forks.topology, forks.accel
    with forks.lab("spawned", progress):
        pass
    spec = machine_spec(build, topology)
    return [
        _ratio(
            "fork_vs_boot",
            ("booting, loading and spawning two kernels, a command in each", lambda: _spawned(forks, quiet)),
            ("a fork of them", lambda: _forked(forks, quiet)),
            limit=15.0,
            at_least=True,
            rounds=rounds,
            progress=progress,
        ),
        _ratio(
            "boot_vs_bare",
            ("a cold boot to the first command", lambda: _booted(spec, accel)),
            ("bare QEMU, same kernel and initramfs", lambda: _bare(spec, accel)),
            limit=1.10,
            rounds=rounds,
            progress=progress,
        ),
        _ratio(
            "plugin_import",
            ("an empty pytest run with the plugin", lambda: _pytest("-p", "harness.plugin")),
            ("without", _pytest),
            limit=1.2,
            rounds=rounds,
            progress=progress,
        ),
        *_memory(forks, quiet, rounds, progress),
        _seconds("probe_s", "the KVM probe", acceleration.probe, limit=0.05, rounds=rounds),
    ]


def _memory(forks: Forks, quiet: Progress, rounds: int, progress: Progress) -> list[Figure]:
    """Measure looking into a fork's memory against a copy of as many bytes."""
    with forks.lab("spawned", quiet) as lab:
        _use(lab)
        ram = ram_of(lab.machine)
        touched = np.concatenate([rows.copy() for _, rows in ram.chunks()])
        copy = (f"a numpy copy of the {touched.nbytes >> 20} MiB touched", touched.copy)
        return [
            _ratio(
                "changed_vs_copy",
                ("the list of pages written since the fork", ram.written),
                copy,
                limit=1.0,
                rounds=rounds,
                progress=progress,
            ),
            _ratio(
                "hash_vs_copy",
                ("hashing all touched pages", lambda: digests(ram)),
                copy,
                limit=3.0,
                rounds=rounds,
                progress=progress,
            ),
        ]


def table(figures: list[Figure]) -> Table:
    """Return the figures as a table for people."""
    shown = Table()
    for column in ("figure", "measured", "limit", "what", "median s"):
        shown.add_column(column)
    for figure in figures:
        style = "green" if figure.good else "bold red"
        bound = f"{'>=' if figure.at_least else '<='} {figure.limit:g}"
        what = f"{figure.what} / {figure.against}" if figure.against else figure.what
        seconds = " / ".join(f"{value:.3f}" for value in figure.seconds)
        shown.add_row(figure.key, f"[{style}]{figure.value:.3f}[/{style}]", bound, what, seconds)
    return shown


Measured = tuple[str, Callable[[], object]]


def _ratio(
    key: str,
    first: Measured,
    second: Measured,
    *,
    limit: float,
    rounds: int,
    progress: Progress,
    at_least: bool = False,
) -> Figure:
    times: tuple[list[float], list[float]] = ([], [])
    with progress.step(f"measuring {key}") as step:
        for number in range(rounds):
            step.update(f"round {number + 1} of {rounds}")
            for (_, act), taken in zip((first, second), times, strict=True):
                taken.append(_time(act))
        medians = tuple(statistics.median(taken) for taken in times)
        value = medians[0] / medians[1]
        step.done(f"{value:.3f}")
    return Figure(key, first[0], second[0], value, limit, at_least, medians)


def _seconds(key: str, what: str, act: Callable[[], object], *, limit: float, rounds: int) -> Figure:
    median = statistics.median(_time(act) for _ in range(rounds))
    return Figure(key, what, "", median, limit, False, (median,))


def _time(act: Callable[[], object]) -> float:
    started = time.perf_counter()
    act()
    return time.perf_counter() - started


def _use(lab: Lab) -> None:
    """Run a command in each of the two kernels, in both at once."""
    pair = lab.pair()
    with ThreadPoolExecutor() as pool:
        list(pool.map(lambda kernel: kernel.run("true"), (pair.host, pair.spawned)))


def _spawned(forks: Forks, progress: Progress) -> None:
    with Lab(forks.build, forks.topology, forks.accel, progress) as lab:
        _use(lab)


def _forked(forks: Forks, progress: Progress) -> None:
    failed = forks.failed
    with forks.lab("spawned", progress) as lab:
        _use(lab)
    if forks.failed > failed:
        raise HarnessError("a fork did not resume, so nothing can be said of its speed")


def _booted(spec: MachineSpec, accel: Accel) -> None:
    with Machine(spec, accel) as machine:
        machine.console("host").expect(printed("user space is up"), BARE_LIMIT)
        machine.channel("host").run("true")


def _bare(spec: MachineSpec, accel: Accel) -> None:
    """Boot what the harness boots without the harness: console on a pipe, a command typed."""
    console = next(line for line in spec.serial if line.line == "host")
    place = f"iobase={console.address:#x},irq={console.irq}"
    command = [QEMU, "-no-user-config", "-nodefaults", "-display", "none", "-machine", spec.machine]
    command += ["-accel", accel.argument, "-cpu", spec.cpu, "-smp", str(spec.vcpus)]
    command += ["-m", f"{spec.memory_mib}M", "-kernel", str(spec.kernel), "-initrd", str(spec.initrd)]
    command += ["-append", spec.cmdline, "-chardev", "stdio,id=console"]
    command += ["-device", f"isa-serial,chardev=console,index={console.port},{place}"]
    with process.running(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as qemu:
        assert qemu.stdin is not None
        assert qemu.stdout is not None
        _await(qemu.stdout.fileno(), b"user space is up")
        qemu.stdin.write(b"echo $((40+2))first\n")
        qemu.stdin.flush()
        _await(qemu.stdout.fileno(), b"42first")
        with suppress(ProcessLookupError):
            qemu.kill()


def _await(fd: int, wanted: bytes) -> None:
    seen = b""
    deadline = time.monotonic() + BARE_LIMIT
    while wanted not in seen:
        ready, _, _ = select.select([fd], [], [], max(0.0, deadline - time.monotonic()))
        data = os.read(fd, 65536) if ready else b""
        if not data:
            raise HarnessError(
                f"a bare QEMU did not print {wanted!r}", details=seen.decode("utf-8", "replace")
            )
        seen += data


def _pytest(*options: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "test_nothing.py").write_text("def test_nothing(): pass\n", encoding="utf-8")
        environment = {**os.environ, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
        command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *options, folder]
        subprocess.run(command, cwd=folder, env=environment, check=True, stdout=subprocess.DEVNULL)
