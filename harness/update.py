# SPDX-License-Identifier: MIT
"""`mkh update`: kernels are replaced one after the other while the others serve; how long did who not?

First the host, by kexec, then a spawned kernel, by stop, load and start. A third kernel runs all the time.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from harness.capabilities import interface_of
from harness.errors import HarnessError
from harness.forks import Forks
from harness.lab import Lab
from harness.multikernel.interface import MOUNT
from harness.multikernel.layout import HOST
from harness.multikernel.payload import spawn_payload
from harness.oracle.gaps import Gaps
from harness.progress import Progress
from harness.replacement import WITHOUT_KHO, Moments, replace_host, replace_spawned
from harness.report.gaps import Record, keep, line
from harness.report.timeline import Lane, Span
from harness.service import Serving, counters, gaps, quiet

QUIET, MARGIN = 2.0, 0.5
"""Seconds of the control run, and of service shown before and after a replacement."""
BEAT_LIMIT = 10.0
"""Seconds after which a heart that should beat each 10 ms has stopped, on however busy a computer."""


@dataclass(frozen=True)
class Update:
    """One replacement: what, how long it took and was watched (s), the bystanders' gaps, and the picture.

    ``kept`` and ``lost`` are what the harness found the same and not the same after it, a line each;
    ``stood_still`` are bystanders that did not serve at the end.
    """

    what: str
    away: float
    watched: float
    records: tuple[Record, ...]
    lanes: tuple[Lane, ...]
    kept: tuple[str, ...]
    lost: tuple[str, ...]
    stood_still: tuple[str, ...]

    @property
    def lines(self) -> list[str]:
        """What there is to tell of it, a line each."""
        return [
            f"{self.what}: it took {self.away:.1f} s",
            *(f"  {line([record])}" for record in self.records),
            *(f"  {name} STANDS STILL" for name in self.stood_still),
            *(f"  kept: {fact}" for fact in self.kept),
            *(f"  lost: {fact}" for fact in self.lost),
        ]


def run(forks: Forks, progress: Progress) -> tuple[Update, ...]:
    """Replace the host, then the first spawned kernel, on one machine. Raises HarnessError.

    There is a third kernel if the topology has one. It ends with the host if the others do not outlive that.
    """
    with forks.lab("spawned", progress) as lab:
        spawned = lab.pair().spawned
        kernels: dict[str, Serving] = {HOST: lab.host, spawned.name: spawned}
        for granted in lab.topology.spawned[1:]:
            kernels[granted.name] = spawn_payload(lab, granted)
        by_kho = WITHOUT_KHO not in lab.topology.arguments and "kho" in lab.build.definition.expects
        host = _host(lab, kernels, by_kho)
        return (host,) if host.stood_still else (host, _spawned(lab, kernels))


def _host(lab: Lab, kernels: Mapping[str, Serving], by_kho: bool) -> Update:
    what = f"host replaced {'by KHO' if by_kho else 'by plain kexec'}"
    return _replaced(lab, HOST, what, kernels, lambda: replace_host(lab, told=not by_kho))


def _spawned(lab: Lab, kernels: Mapping[str, Serving]) -> Update:
    pair, mk = lab.pair(), interface_of(lab)
    what = f"{pair.spawned.name} replaced by stop, load and start"
    return _replaced(lab, pair.spawned.name, what, kernels, lambda: replace_spawned(pair, mk))


def _replaced(
    lab: Lab, name: str, what: str, kernels: Mapping[str, Serving], replace: Callable[[], Moments]
) -> Update:
    """Replace the kernel ``name``, watching all of ``kernels``."""
    before = _facts(lab)
    bystanders = [other for other in kernels if other != name]
    with lab.progress.step(what) as step:
        idle = quiet(lab, kernels, QUIET)
        with gaps(lab, kernels) as seen:
            time.sleep(MARGIN)
            moments = replace()
            seen.follow(name, counters(lab, kernels[name]))
            dead = _await_beats(seen, bystanders)
            time.sleep(MARGIN)
        records = keep(lab.build.digest, what, idle, seen, bystanders)
        step.done(", ".join(f"{one.bystander} {one.seen.ms:.0f} ms" for one in records))
    away = moments.up - moments.left
    left, begins, up = (moment - seen.began for moment in (moments.left, moments.begins, moments.up))
    own = (
        Span("serving", 0, seen.seconds),
        Span("handover" if name == HOST else "down", left, begins),
        Span("boot", begins, up, f"boots {lab.build.version}"),
    )
    after = _facts(lab)
    return Update(
        what,
        away,
        seen.seconds,
        records,
        tuple(
            Lane(name, own, f"away for {away:.1f} s") if other == name else _bystander(seen, other)
            for other in kernels
        ),
        tuple(fact for fact in before if fact in after),
        tuple(fact for fact in before if fact not in after),
        dead,
    )


def _await_beats(seen: Gaps, names: Iterable[str]) -> tuple[str, ...]:
    """Return which of the kernels do not beat within BEAT_LIMIT."""
    before, limit = {name: seen[name].beats for name in names}, time.monotonic() + BEAT_LIMIT
    while still := tuple(name for name in before if seen[name].beats == before[name]):
        if time.monotonic() > limit:
            break
        time.sleep(0.05)
    return still


def _facts(lab: Lab) -> list[str]:
    """Return what the host knows of its instances, and which kernel its spawned one is, a line each."""
    spawned = lab.pair().spawned
    try:
        boot = spawned.read("/proc/sys/kernel/random/boot_id").strip()
        found = [f"{spawned.name} is the kernel with boot id {boot}"]
        interface = interface_of(lab)
    except HarnessError:
        return []
    for name in interface.names():
        cpus = lab.host.read(f"{MOUNT}/instances/{name}/cpus").strip()
        found.append(f"{name}: {interface.state(name)}, {interface.region(name)}, CPUs {cpus}")
    return found


def _bystander(seen: Gaps, name: str) -> Lane:
    service = seen[name]
    spans = [Span("serving", 0, seen.seconds)]
    for cpu in service.cpus.values():
        spans += [Span("gap", gap.began, gap.ended, f"{gap.ms:.0f} ms") for gap in cpu.long]
    return Lane(name, tuple(spans), f"longest gap {service.longest_ms:.0f} ms")
