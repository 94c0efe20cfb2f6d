# SPDX-License-Identifier: MIT
"""A kept failure is complete or not there, is found again, and never fills the disk."""

from __future__ import annotations

import os
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import msgspec
import pytest

from harness import failure
from harness.errors import HarnessError, UsageError
from harness.failure import Failure, Kernel

TEST = "tests/conformance/stopping/test_stops.py::test_deaf_kernel[spin deaf/1]"
AT = 1_795_378_215.0


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MKHARNESS_CACHE", str(tmp_path))
    monkeypatch.setenv("TZ", "UTC")
    return tmp_path


def failed(test: str = TEST, ended: float = AT) -> Failure:
    return Failure(test, ended, "alpha did not stop", kernels=(Kernel("host", "7.3.4", "abc", "/x/vmlinux"),))


def test_name_sorts_by_time_and_can_be_typed():
    name = failure.name_of(TEST, AT)
    assert name.endswith("-stopping-test_stops-test_deaf_kernel-spin-deaf-1")
    assert failure.name_of(TEST, AT + 3600) > name
    long = failure.name_of(f"tests/vm/test_x.py::test_y[{'z' * 500}]", AT)
    assert len(long) <= failure.NAME_LENGTH


def test_what_is_kept_is_read_back():
    kept = failure.keep(failed(), {"explanation.txt": "because", "console-host.log": b"\xff\x1b[1mhi"})
    assert failure.find(kept.name) == kept
    assert failure.all() == (kept,)
    assert kept.text(failure.EXPLANATION) == "because"
    assert kept.console("host") == "\ufffd\x1b[1mhi"
    assert kept.console("nobody") == ""
    assert kept.memory is None


def test_found_by_beginning_by_part_and_as_the_last():
    first = failure.keep(failed("tests/vm/test_a.py::test_one"), {})
    second = failure.keep(failed("tests/vm/test_b.py::test_two", AT + 60), {})
    assert failure.find("last") == second
    assert failure.find(first.name[:15]) == first
    assert failure.find("test_two") == second
    with pytest.raises(UsageError, match="names 2 kept failures") as caught:
        failure.find("2026")
    assert first.name in str(caught.value)
    with pytest.raises(UsageError, match="no kept failure 'nonsense'"):
        failure.find("nonsense")


def test_without_any_says_where_they_would_be(cache):
    with pytest.raises(UsageError, match=str(cache)):
        failure.find("last")
    assert failure.all() == ()


def test_two_of_a_second_are_both_kept():
    first, second = failure.keep(failed(), {}), failure.keep(failed(), {})
    assert first.name != second.name
    assert failure.all() == (first, second)


def _keep(number: int) -> str:
    return failure.keep(failed(), {"explanation.txt": str(number)}).name


def test_workers_that_fail_at_once_keep_all():
    with ProcessPoolExecutor(4) as pool:
        names = list(pool.map(_keep, range(12)))
    assert len(set(names)) == 12
    assert sorted(failure.find(name).text(failure.EXPLANATION) for name in names) == sorted(
        map(str, range(12))
    )


def test_oldest_are_removed_beyond_the_number(monkeypatch):
    monkeypatch.setattr(failure, "NUMBER", 3)
    names = [failure.keep(failed(ended=AT + 60 * number), {}).name for number in range(5)]
    assert [one.name for one in failure.all()] == names[2:]


def test_oldest_are_removed_beyond_the_size(monkeypatch):
    monkeypatch.setattr(failure, "SIZE", 100_000)
    names = [failure.keep(failed(ended=AT + 60 * n), {"map.txt": "x" * 40_000}).name for n in range(4)]
    assert [one.name for one in failure.all()] == names[2:]
    # One alone may be larger than all may be together: it is what somebody wants to look at.
    big = failure.keep(failed(ended=AT + 600), {"map.txt": "x" * 300_000})
    assert failure.all() == (big,)


def test_long_file_keeps_its_end(monkeypatch):
    monkeypatch.setattr(failure, "FILE_SIZE", 100)
    kept = failure.keep(failed(), {"map.txt": "x" * 1000 + "end"})
    assert kept.text("map.txt").startswith("[... 903 bytes left out ...]")
    assert kept.text("map.txt").endswith("xend")


def test_memory_is_written_beside_the_rest():
    kept = failure.keep(failed(), {}, memory=lambda file: file.write_bytes(b"core") and None)
    assert kept.memory is not None
    assert kept.memory.read_bytes() == b"core"


def test_memory_that_cannot_be_kept_is_told_and_hides_nothing():
    def fail(file: Path) -> None:
        file.write_bytes(b"half")
        raise HarnessError("the guest's memory is gone")

    kept = failure.keep(failed(), {"explanation.txt": "because"}, memory=fail)
    assert kept.memory is None
    assert "memory is gone" in kept.text("memory.txt")
    assert kept.text(failure.EXPLANATION) == "because"


def test_full_disk_keeps_no_memory(monkeypatch):
    monkeypatch.setattr(failure, "FREE", 1 << 62)
    kept = failure.keep(failed(), {}, memory=lambda file: file.write_bytes(b"core") and None)
    assert kept.memory is None


def test_folder_that_cannot_be_written_is_a_clear_error(cache):
    (cache / "failures").write_text("no folder")
    with pytest.raises(HarnessError, match="cannot be kept in"):
        failure.keep(failed(), {})


def test_damaged_ones_are_passed_over_and_named():
    kept = failure.keep(failed(), {})
    (kept.folder / failure.JSON).write_text("{")
    assert failure.all() == ()
    with pytest.raises(UsageError, match="damaged"):
        failure.find(kept.name)


def test_what_a_kill_left_is_removed(cache):
    left, living = cache / "failures/999999999.new", cache / f"failures/{os.getppid()}.new"
    left.mkdir(parents=True)
    living.mkdir()
    failure.keep(failed(), {})
    assert not left.exists()
    assert living.exists()


def test_json_is_for_people_too():
    kept = failure.keep(failed(), {})
    text = (kept.folder / failure.JSON).read_text()
    assert '"why": "alpha did not stop"' in text
    assert msgspec.json.decode(text)["format"] == "mkharness-failure-1"
