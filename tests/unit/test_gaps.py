# SPDX-License-Identifier: MIT
"""Gaps between beats, with a process of the test's own in QEMU's place; and what is kept of them."""

from __future__ import annotations

import os
import struct
import tempfile
import threading
import time
from collections.abc import Iterator
from datetime import datetime
from io import StringIO
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console

from harness import cli_test
from harness.model import Region
from harness.oracle import gaps as watching
from harness.oracle.gaps import Counter, Gaps
from harness.report import gaps as report
from harness.report import history
from harness.vm.ram import Ram
from harness.vm.ram_layout import Layout

MIB = 1 << 20


class Beating:
    """Memory in a file, and threads that count in it."""

    def __init__(self) -> None:
        self.file = tempfile.TemporaryFile()  # noqa: SIM115
        self.file.truncate(MIB)
        self.ram = Ram(self.file, Layout([Region(0, MIB)]))
        self.over = threading.Event()
        self.running: list[threading.Thread] = []

    def count(self, address: int, pause: tuple[float, float] | None = None, size: int = 8) -> None:
        """Count up every 5 ms, but not for the second number of seconds after the first."""

        def beat() -> None:
            began, number = time.monotonic(), 1
            while not self.over.wait(0.005):
                if pause and pause[0] < time.monotonic() - began < sum(pause):
                    continue
                number += 1
                form = {4: "<I", 8: "<Q"}[size]
                os.pwrite(self.file.fileno(), struct.pack(form, number), address)

        self.running.append(threading.Thread(target=beat))
        self.running[-1].start()


@pytest.fixture
def beating(monkeypatch: pytest.MonkeyPatch) -> Iterator[Beating]:
    made = Beating()
    monkeypatch.setattr(watching, "ram_of", lambda _: made.ram)
    yield made
    made.over.set()
    for thread in made.running:
        thread.join()
    made.file.close()


def machine() -> Any:
    vcpus = [{"cpu-index": index, "thread-id": threading.get_native_id()} for index in range(3)]
    return SimpleNamespace(pid=os.getpid(), qmp=SimpleNamespace(execute=lambda _: vcpus))


def test_a_pause_is_the_longest_gap_of_that_kernel_alone(beating: Beating) -> None:
    beating.count(0x100)
    beating.count(0x200, pause=(0.2, 0.5), size=4)
    with Gaps(machine(), {"host": [Counter(0, 0x100)], "alpha": [Counter(1, 0x200, 4)]}) as seen:
        time.sleep(1.2)
    assert seen["alpha"].longest_ms > 480
    assert not seen["alpha"].longest.open
    assert 0.6 < seen["alpha"].ended_at < seen.seconds
    assert seen["host"].longest_ms < seen["alpha"].longest_ms
    assert seen["host"].beats > seen["alpha"].beats > 10


def test_a_gap_without_an_end_counts_until_the_watch_ends(beating: Beating) -> None:
    beating.count(0x100, pause=(0.1, 99))
    with Gaps(machine(), {"host": [Counter(0, 0x100)]}) as seen:
        time.sleep(0.4)
    first = seen["host"]
    time.sleep(0.05)
    assert first.longest.open
    assert first.longest_ms == first.silent_ms == seen["host"].silent_ms
    assert first.silent_ms > 250


def test_a_successor_ends_the_gap_of_who_was_before(beating: Beating) -> None:
    beating.count(0x100, pause=(0.1, 99))
    with Gaps(machine(), {"host": [Counter(0, 0x100)]}) as seen:
        time.sleep(0.4)
        beating.count(0x300)
        seen.follow("host", [Counter(0, 0x300)])
        time.sleep(0.2)
    assert seen["host"].longest_ms > 250
    assert not seen["host"].longest.open
    assert seen["host"].silent_ms < seen["host"].longest_ms


def test_who_is_put_to_zero_has_not_beaten(beating: Beating) -> None:
    os.pwrite(beating.file.fileno(), struct.pack("<Q", 7), 0x100)
    with Gaps(machine(), {"host": [Counter(0, 0x100)]}) as seen:
        time.sleep(0.05)
        os.pwrite(beating.file.fileno(), bytes(8), 0x100)
        time.sleep(0.05)
    assert seen["host"].beats == 0


def test_waiting_for_a_core_is_taken_off() -> None:
    lane = watching._Lane(Counter(0, 0), 0, 5.0, (1.0, 2.0))
    assert lane.gap(5.1, (1.03, 2.01), 4.0).net_ms == pytest.approx(60.0)
    assert lane.gap(5.1, (1.09, 2.08), 4.0).net_ms == pytest.approx(0.0)


def test_records_are_kept_and_counted(
    beating: Beating, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MKHARNESS_CACHE", str(tmp_path))
    watched = []
    for pause in (0.1, 0.3):
        beating.count(0x100 + len(watched) * 8, pause=(0.05, pause))
        counter = Counter(0, 0x100 + len(watched) * 8)
        with Gaps(machine(), {"host": [counter]}) as seen:
            time.sleep(0.6)
        watched.append(seen)
    for load in (1.0, 1.0, 8.0):
        monkeypatch.setattr(history, "load", lambda load=load: load)
        (record,) = report.keep("abc", "panic in alpha", *watched, ["host"])
    assert record.ratio > 1.5
    assert "host's longest gap" in report.line([record])
    display = Console(file=StringIO(), width=200)
    with display.capture() as captured:
        display.print(report.table(report.read("abc")))
    row = next(line for line in captured.get().splitlines() if "panic in alpha" in line)
    cells = [cell.strip() for cell in row.split("│")]
    assert cells[2:5] == ["host", "3", "2"]
    assert float(cells[6]) == pytest.approx(record.ratio, abs=0.06)
    assert "2 of 3 records" in captured.get()
    assert report.carry("abc", tmp_path / "carried") == 2, "the busy time is of no use elsewhere"
    monkeypatch.setenv("MKHARNESS_CACHE", str(tmp_path / "another"))
    report.carry("abc", tmp_path / "carried")
    assert len(report.read("abc")) == 2


def test_what_counts_faster_is_held_to_the_pace_of_a_beat() -> None:
    idle, seen = report.Figures(2.0, 2.0, 1500, 1.5), report.Figures(18.0, 17.0, 1400, 1.5)
    record = report.Record(0.0, "panic in alpha", "bravo", idle, seen, 1.0)
    assert (record.ratio, record.net_ratio) == (1.8, 1.7)


def test_long_gaps_of_quiet_times_are_counted_beside_those_of_events() -> None:
    short, long = report.Figures(11.0, 11.0, 280, 1.5), report.Figures(60.0, 12.0, 260, 1.5)
    times = ((short, long, 1.0), (long, short, 1.0), (long, short, 8.0))
    records = [report.Record(0.0, "panic in alpha", "host", *one) for one in times]
    caption = str(report.table(records).caption)
    assert "2 of 3 records" in caption
    assert "In 1 of these the gap was over 3 times the idle one, in 0 the net gap" in caption
    assert caption.endswith("the other way round the idle gap in 1, net in 0")


def test_only_what_was_kept_since_is_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MKHARNESS_CACHE", str(tmp_path))
    monkeypatch.setattr(cli_test, "build_of", lambda *_: SimpleNamespace(digest="abc"))
    idle = report.Figures(11.0, 11.0, 280, 1.5)
    for at, ms in ((1000.0, 99.0), (2000.0, 12.0)):
        seen = report.Figures(ms, ms, 280, 1.5)
        history.keep("abc", report.KIND, report.Record(at, "panic in alpha", "host", idle, seen, 1.0))
    assert cli_test.runs(gaps=True, since=datetime.fromtimestamp(1500)) == 0
    assert "1 of 1 records" in capsys.readouterr().out
    assert cli_test.runs(gaps=True) == 0
    assert "2 of 2 records" in capsys.readouterr().out
