# SPDX-License-Identifier: MIT
"""The part of `mkh bench` about messages: how long one and its answer take, and how many go one way.

Beside them stands what a developer would use inside one kernel, in the same machine and minute: a
function called on another CPU by an interrupt, and a pipe between two processes on two CPUs. All
alternate within each round. Only the ratios mean something where the guest's time is not a
computer's (TCG).
"""

from __future__ import annotations

import shlex
from collections.abc import Callable

import msgspec
import numpy as np
import numpy.typing as npt
from rich.bar import Bar
from rich.console import Group
from rich.table import Table

from harness.capabilities import probe
from harness.forks import Forks
from harness.lab import Pair
from harness.multikernel import messaging
from harness.multikernel.kernel import Kernel
from harness.progress import Progress

SIZES = (8, 64, 128)
"""Bytes of a message; the greatest that the series takes is measured as well."""
EACH, MANY = 100, 2000
"""Round trips and one-way messages of each size in each round."""
LATENCY = "/proc/mkmsg/latency"
BUCKETS = 24

Times = npt.NDArray[np.float64]


class Spread(msgspec.Struct, frozen=True):
    """How long something took: ns, and the counts of the histogram between ``Messages.edges_ns``."""

    count: int
    p50_ns: float
    p90_ns: float
    p99_ns: float
    max_ns: float
    histogram: list[int]


class RoundTrip(msgspec.Struct, frozen=True):
    """There and back with ``size`` bytes; the ratios are of medians."""

    size: int
    message: Spread
    call: Spread
    pipe: Spread
    vs_call: float
    vs_pipe: float


class OneWay(msgspec.Struct, frozen=True):
    """As many as possible one way: messages and bytes a second; ``lost`` of those taken."""

    size: int
    messages_per_s: float
    bytes_per_s: float
    pipe_messages_per_s: float
    vs_pipe: float
    lost: int


class Messages(msgspec.Struct, frozen=True):
    """All of it. ``edges_ns`` are the histograms' bounds, one more than there are counts."""

    accelerator: str
    rounds: int
    edges_ns: list[float]
    round_trip: list[RoundTrip]
    one_way: list[OneWay]


def run(forks: Forks, progress: Progress, rounds: int) -> Messages | None:
    """Measure ``rounds`` times each; None where kernels have no messages. Raises HarnessError."""
    if not probe(forks, progress)["messages"].present:
        return None
    with forks.lab("spawned", progress) as lab, progress.step("measuring messages") as step:
        pair = lab.pair()
        sizes = (*SIZES, lab.dialect.longest_message)
        acts = _acts(pair)
        trips: dict[tuple[int, str], list[Times]] = {}
        ways: dict[tuple[int, str], list[float]] = {}
        lost = dict.fromkeys(sizes, 0)
        for number in range(rounds):
            step.update(f"round {number + 1} of {rounds}")
            for size in sizes:
                for name, act in acts.items():
                    trips.setdefault((size, name), []).append(act(size))
                speed, missing = _flood(pair, size)
                lost[size] += missing
                ways.setdefault((size, "message"), []).append(speed)
                ways.setdefault((size, "pipe"), []).append(_pipe_flood(pair.host, size))
        found = result(
            lab.accel.name, rounds, {key: np.concatenate(times) for key, times in trips.items()}, ways, lost
        )
        last = found.round_trip[-1]
        step.done(f"round trip of {last.size} bytes {last.vs_call:.1f} calls, {last.vs_pipe:.1f} pipes")
    return found


def _acts(pair: Pair) -> dict[str, Callable[[int], Times]]:
    host, to = pair.host, pair.lab.dialect.to_spawned(pair.instance)

    def latency(command: str) -> Times:
        _on_first_cpu(host, f"echo '{command}' > {LATENCY}")
        return _times(host.read(LATENCY))

    return {
        "message": lambda size: latency(f"ping {to} {size} {EACH}"),
        "call": lambda size: latency(f"call 1 {size} {EACH}"),
        "pipe": lambda size: _times(host.run(f"mkctl pipe round {size} {EACH} 0 1", timeout=60)),
    }


def _on_first_cpu(host: Kernel, command: str) -> None:
    host.run(f"taskset -c 0 sh -c {shlex.quote(command)}", timeout=60)


def _times(text: str) -> Times:
    return np.array(text.split(), np.float64)


def _flood(pair: Pair, size: int) -> tuple[float, int]:
    """Return messages a second, and how many of those taken did not come."""
    host, to = pair.host, pair.lab.dialect.to_spawned(pair.instance)
    for kernel in (host, pair.spawned):
        kernel.run(f"echo clear > {messaging.FLOOD}")
    _on_first_cpu(host, messaging.flood_line(to, MANY, size))
    sent = messaging.floods(host)[0][0]
    got = messaging.wait_for_flood(pair.spawned, 0, sent.taken, timeout=1.0)
    return got.count * 1e9 / sent.ns, sent.taken - got.count


def _pipe_flood(host: Kernel, size: int) -> float:
    return MANY * 1e9 / float(host.run(f"mkctl pipe one-way {size} {MANY} 0 1", timeout=60))


def result(
    accelerator: str,
    rounds: int,
    trips: dict[tuple[int, str], Times],
    ways: dict[tuple[int, str], list[float]],
    lost: dict[int, int],
) -> Messages:
    """Make figures of ns there and back and of messages a second, by size and what was measured."""
    everything = np.concatenate(list(trips.values()))
    edges = np.geomspace(max(everything.min(), 1.0), everything.max() + 1.0, BUCKETS + 1)
    # Rounding must not leave one out.
    edges[0], edges[-1] = 0.0, everything.max() + 1.0

    def spread(size: int, name: str) -> Spread:
        times = trips[size, name]
        p50, p90, p99 = np.percentile(times, (50, 90, 99)).tolist()
        counts = np.histogram(times, edges)[0].tolist()
        return Spread(len(times), p50, p90, p99, float(times.max()), counts)

    round_trip, one_way = [], []
    for size, missing in lost.items():
        message, call, pipe = (spread(size, name) for name in ("message", "call", "pipe"))
        ratios = (message.p50_ns / call.p50_ns, message.p50_ns / pipe.p50_ns)
        round_trip.append(RoundTrip(size, message, call, pipe, *ratios))
        speed, other = (float(np.median(ways[size, name])) for name in ("message", "pipe"))
        one_way.append(OneWay(size, speed, speed * size, other, speed / other, missing))
    return Messages(accelerator, rounds, edges.tolist(), round_trip, one_way)


def shown(found: Messages) -> Group:
    """Return the figures as tables for people, the histogram of the greatest size among them."""
    trips = Table(title="round trip", title_justify="left")
    for name in (
        "bytes",
        "message us p50 / p90 / p99 / max",
        "call us p50",
        "pipe us p50",
        "/ call",
        "/ pipe",
    ):
        trips.add_column(name, justify="right")
    for trip in found.round_trip:
        one = trip.message
        times = " / ".join(f"{ns / 1e3:.0f}" for ns in (one.p50_ns, one.p90_ns, one.p99_ns, one.max_ns))
        others = (f"{trip.call.p50_ns / 1e3:.0f}", f"{trip.pipe.p50_ns / 1e3:.0f}")
        trips.add_row(str(trip.size), times, *others, f"{trip.vs_call:.2f}", f"{trip.vs_pipe:.2f}")

    ways = Table(title="one way", title_justify="left")
    for name in ("bytes", "messages/s", "KiB/s", "pipe writes/s", "/ pipe", "lost"):
        ways.add_column(name, justify="right")
    for way in found.one_way:
        numbers = (way.messages_per_s, way.bytes_per_s / 1024, way.pipe_messages_per_s)
        ways.add_row(str(way.size), *(f"{n:.0f}" for n in numbers), f"{way.vs_pipe:.2f}", str(way.lost))

    last = found.round_trip[-1]
    bars = Table(title=f"round trips of {last.size} bytes", title_justify="left")
    columns = (("message", last.message), ("call", last.call), ("pipe", last.pipe))
    for name in ("from us", *(name for name, _ in columns)):
        bars.add_column(name, justify="right" if name == "from us" else "left")
    for at in range(BUCKETS):
        counts = [(one.histogram[at], max(one.histogram)) for _, one in columns]
        if any(count for count, _ in counts):
            cells = (Bar(most, 0, count, width=30) for count, most in counts)
            bars.add_row(f"{found.edges_ns[at] / 1e3:.0f}", *cells)
    note = "Times under TCG are not a computer's: only the ratios can be compared."
    return Group(trips, ways, bars, *([note] if "tcg" in found.accelerator.lower() else []))
