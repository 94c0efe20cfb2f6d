# SPDX-License-Identifier: MIT
"""`mkh bench`, the oracles' part: what it costs to look at a machine from outside after every test."""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from harness import paths
from harness.bench import Figure
from harness.errors import HarnessError
from harness.forks import Forks
from harness.lab import Lab
from harness.oracle.partition import written_constants, written_free
from harness.partition import Partition, trespasses
from harness.progress import Progress
from harness.vm.ram import ram_of

WORK = "head -c 8000000 /dev/urandom >/tmp/work"
"""What each kernel does before it is looked at: a fork that did nothing has hardly a page of its own."""
SAMPLE = ("starting/test_pair.py", "stopping/test_stops.py", "messages/test_delivery.py")
"""Tests that stand for the suite: quick ones and slow ones, on the host alone and on two kernels."""
RUNS = 3
"""Runs of the sample with the oracles, and as many without: each takes half a minute."""


@dataclass
class Times:
    """Seconds, one entry a round."""

    resume: list[float] = field(default_factory=list)
    stray: list[float] = field(default_factory=list)
    reach: list[float] = field(default_factory=list)


def run(forks: Forks, options: Sequence[str], progress: Progress, rounds: int) -> list[Figure]:
    """Measure looks at forks ``rounds`` times, and the sample's tests, run with ``options``, RUNS times."""
    quiet = Progress(progress.quiet_console())
    times = Times()
    with progress.step("measuring stray_vs_resume and reach_vs_resume") as step:
        for number in range(rounds):
            step.update(f"round {number + 1} of {rounds}")
            began = time.perf_counter()
            with forks.lab("spawned", quiet) as lab:
                times.resume.append(time.perf_counter() - began)
                _look(lab, times)
        resume, stray, reach = map(statistics.median, (times.resume, times.stray, times.reach))
        step.done(f"{stray / resume:.3f} and {reach / resume:.3f}")
    against = "resuming that fork"
    looked = "looking for pages written astray in a fork that worked"
    walked = "walking the page tables of all its vCPUs"
    return [
        Figure("stray_vs_resume", looked, against, stray / resume, 0.5, False, (stray, resume)),
        Figure("reach_vs_resume", walked, against, reach / resume, 1.0, False, (reach, resume)),
        _overhead(options, progress, min(rounds, RUNS)),
    ]


def _look(lab: Lab, times: Times) -> None:
    pair = lab.pair()
    for kernel in (pair.host, pair.spawned):
        kernel.run(WORK, timeout=60)
    partition = Partition(lab)
    with partition.look() as look:
        if look is None:
            raise HarnessError("the machine ended while it was measured")
        began = time.perf_counter()
        ram = ram_of(lab.machine)
        written = ram.written()
        strays = [written_free(ram, written, look.layout.free(ram.regions))]
        strays += [written_constants(ram, written, pages, name) for name, pages in lab.canaries.items()]
        times.stray.append(time.perf_counter() - began)
        began = time.perf_counter()
        reached = [trespasses(look, one) for one in partition.tables(ram, look.layout, look.registers)]
        times.reach.append(time.perf_counter() - began)
    if any(strays):
        raise HarnessError(f"kernels at work wrote where they should not: {[s for s in strays if s]}")
    if len(reached) < 2:
        raise HarnessError("there were no page tables of both kernels to walk")


def _overhead(options: Sequence[str], progress: Progress, runs: int) -> Figure:
    taken: tuple[list[float], list[float]] = ([], [])
    with progress.step("measuring oracles_overhead") as step:
        for number in range(runs):
            step.update(f"round {number + 1} of {runs}")
            for seconds, extra in zip(taken, ((), ("--no-oracles",)), strict=True):
                began = time.perf_counter()
                _pytest([*options, *extra])
                seconds.append(time.perf_counter() - began)
        medians = tuple(map(statistics.median, taken))
        value = medians[0] / medians[1] - 1
        step.done(f"{value:.3f}")
    what = f"{len(SAMPLE)} files of the suite with the oracles"
    return Figure("oracles_overhead", what, "without them, less 1", value, 0.25, False, medians)


def _pytest(options: Sequence[str]) -> None:
    files = [str(paths.CHECKOUT / "tests" / "conformance" / name) for name in SAMPLE]
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *options, *files]
    done = subprocess.run(command, cwd=paths.CHECKOUT, check=False, capture_output=True, text=True)
    # A claim that fails takes its time like one that holds; anything else would measure nothing.
    if done.returncode not in {0, 1}:
        raise HarnessError("the tests to be timed did not run", details=done.stdout[-2000:])
