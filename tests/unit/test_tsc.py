# SPDX-License-Identifier: MIT
"""The rate of the time stamp counter is measured once, and the same for everybody."""

from __future__ import annotations

from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import pytest

from harness.vm import tsc


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MKHARNESS_CACHE", str(tmp_path))
    tsc.tsc_khz.cache_clear()
    return tmp_path


def rate(_: int) -> int:
    return tsc.tsc_khz()


def test_two_measurements_agree() -> None:
    first, second = tsc._measure(), tsc._measure()
    assert first == pytest.approx(second, rel=0.01)
    assert 1e8 < first < 1e11


def test_the_first_measurement_stands_for_all_processes(cache: Path) -> None:
    with ProcessPoolExecutor(4) as pool:
        assert len(set(pool.map(rate, range(8)))) == 1
    (file,) = cache.iterdir()
    file.write_text("1234000", encoding="ascii")
    tsc.tsc_khz.cache_clear()
    assert tsc.tsc_khz() == 1234000


def test_counts_of_a_tick_are_told_where_ticks_are_known(cache: Path) -> None:
    rate = tsc.tsc_khz()
    assert f"lpj={rate * 4}" in tsc.tsc_arguments(250)
    assert not [word for word in tsc.tsc_arguments() if word.startswith("lpj=")]
