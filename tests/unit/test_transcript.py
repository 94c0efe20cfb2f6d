# SPDX-License-Identifier: MIT
"""What a console keeps of a guest that prints without end."""

from __future__ import annotations

import os
import resource
import threading
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.vm import transcript as module
from harness.vm.console import Console
from harness.vm.pump import Pump
from harness.vm.transcript import Line, Transcript

FLOOD = 100 << 20


def written(text: bytes, size: int) -> Transcript:
    made = Transcript()
    for number, start in enumerate(range(0, len(text), size)):
        made.append(text[start : start + size], float(number))
    return made


@settings(deadline=None)
@given(
    text=st.text("ab\n\r", max_size=300).map(str.encode),
    size=st.integers(1, 40),
    start=st.integers(0, 300),
    end=st.integers(0, 300),
)
def test_what_went_to_the_file_reads_like_what_did_not(text: bytes, size: int, start: int, end: int) -> None:
    whole = written(text, size)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "KEPT", 16)
        patch.setattr(module, "PIECE", 24)
        cut = written(text, size)
        assert cut.read() == text
        assert cut.read(start, end) == text[start:end]
        assert list(cut.lines()) == list(whole.lines())
        for pattern in ("ab", "a\nb", r"(?m)^b$", r"\Aa"):
            assert cut.search(pattern) == whole.search(pattern), pattern


def test_without_room_on_the_disk_it_stays_in_memory(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("MKHARNESS_CACHE", str(tmp_path / "file"))
    monkeypatch.setattr(module, "KEPT", 16)
    assert written(b"x" * 1000, 10).read() == b"x" * 1000


def test_a_hundred_megabytes_through_a_pipe_in_bounded_memory() -> None:
    """From a pipe such as QEMU writes, through the pump and the watch for splats, into the transcript."""
    far, near = os.pipe()[::-1]
    sink, rest = os.pipe()[::-1]
    pump = Pump(os.fdopen(near, "rb", buffering=0), os.fdopen(sink, "wb", buffering=0), "alpha")
    console = Console(pump, ended=lambda: None)
    block = b"".join(b"[%5d.000000] a line of a flood that nobody waits for\r\n" % i for i in range(20_000))

    def flood() -> None:
        for _ in range(FLOOD // len(block) + 1):
            view = memoryview(block)
            while view:
                view = view[os.write(far, view[: 1 << 16]) :]
        os.write(far, b"the very last\r\n")

    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    pump.start()
    started = time.monotonic()
    thread = threading.Thread(target=flood)
    thread.start()
    thread.join()
    pump.drain(60)
    assert console.mark > FLOOD
    assert console.saw(r"\[    0\.000000\] a line")
    assert console.saw("the very last")
    assert console.tail(1) == "the very last"
    assert console.expect("the very last", timeout=300)
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) >> 10
    assert grown < 60, f"{grown} MiB more after {FLOOD >> 20} MiB in {time.monotonic() - started:.1f} s"
    os.close(far)
    pump.close()
    os.close(rest)


def test_times_of_a_flood_are_not_kept_for_every_byte(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "STAMPS_EXACT", 2)
    made = Transcript()
    for number in range(1000):
        made.append(b"x\n", number / 1000)
    assert len(made.stamps()) < 2 + 1 / module.COARSE
    lines = list(made.lines())
    assert lines[:2] == [Line(0.0, "x"), Line(0.001, "x")]
    assert all(abs(line.time - number / 1000) <= module.COARSE for number, line in enumerate(lines))
