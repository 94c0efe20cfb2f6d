# SPDX-License-Identifier: MIT
"""Readers of memory, with a process of the tests' own in QEMU's place."""

from __future__ import annotations

import mmap
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.errors import HarnessError, UsageError
from harness.model import Region
from harness.vm import ram_scan
from harness.vm.memory import in_use
from harness.vm.ram import Ram
from harness.vm.ram_layout import Layout
from harness.vm.ram_pages import PAGE, PrivatePages, find_mapping, runs

MIB = 1 << 20
SPLIT = (Region(0, 3 * MIB), Region(16 * MIB, MIB))
"""A file of 4 MiB that is cut at 3, as a PC's is at 3 GiB."""
QEMU = """
import mmap, sys
with open(sys.argv[1], "r+b") as file:
    memory = mmap.mmap(file.fileno(), 0, flags=mmap.MAP_PRIVATE)
print(len(memory), flush=True)
for line in sys.stdin:
    place, text = line.split()
    memory[int(place) : int(place) + len(text)] = text.encode()
    print("done", flush=True)
"""


class Fork:
    """A process that maps the template privately and writes where it is told to."""

    def __init__(self, template: Path) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", QEMU, template], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self._answer()
        self.file = template.open("rb")
        size = os.fstat(self.file.fileno())
        address, private = find_mapping(self.process.pid, size)
        assert private
        pages = PrivatePages(self.process.pid, address, size.st_size)
        self.ram = Ram(self.file, Layout(SPLIT), pages)

    def _answer(self) -> None:
        assert self.process.stdout is not None
        assert self.process.stdout.readline()

    def put(self, place: int, text: str) -> None:
        assert self.process.stdin is not None
        print(place, text, file=self.process.stdin, flush=True)
        self._answer()

    def end(self) -> None:
        self.process.kill()
        self.process.communicate()
        self.file.close()


@pytest.fixture
def template() -> Iterator[Path]:
    """Pages 1 and 2 of the first part and 1 of the second hold something; the rest are holes."""
    with tempfile.NamedTemporaryFile(dir="/dev/shm") as file:
        os.truncate(file.fileno(), 4 * MIB)
        os.pwrite(file.fileno(), b"from the template", PAGE + 100)
        os.pwrite(file.fileno(), b"across" + bytes(20), 2 * PAGE - 3)
        os.pwrite(file.fileno(), b"behind the cut", 3 * MIB + PAGE)
        yield Path(file.name)


@pytest.fixture
def fork(template: Path) -> Iterator[Fork]:
    made = Fork(template)
    yield made
    made.end()


@pytest.fixture
def other(template: Path) -> Iterator[Fork]:
    made = Fork(template)
    yield made
    made.end()


BEHIND = 16 * MIB


def test_a_fork_reads_its_template_and_its_own_pages(fork: Fork) -> None:
    assert fork.ram.read(PAGE + 100, 17) == b"from the template"
    assert fork.ram.read(BEHIND + PAGE, 14) == b"behind the cut"
    fork.put(PAGE + 105, "a-fork")
    fork.put(3 * MIB + 2 * PAGE - 2, "over")
    assert fork.ram.read(PAGE + 100, 17) == b"from a-forkmplate"
    assert fork.ram.read(BEHIND + 2 * PAGE - 3, 6) == b"\0over\0"
    assert fork.ram.template().read(PAGE + 100, 17) == b"from the template"
    assert fork.ram.written().tolist() == [1, BEHIND // PAGE + 1, BEHIND // PAGE + 2]
    assert fork.ram.touched().tolist() == [1, 2, BEHIND // PAGE + 1, BEHIND // PAGE + 2]


def test_spots_are_read_again_and_again(fork: Fork) -> None:
    for ram in (fork.ram, Ram(fork.file, Layout(SPLIT))):
        look = ram.spots([PAGE + 100, BEHIND + PAGE], 6)
        assert look().tobytes() == b"from tbehind"
    look = fork.ram.spots([PAGE + 100, BEHIND + PAGE], 6)
    fork.put(PAGE + 102, "aa")
    assert look().tobytes() == b"fraa tbehind"
    with pytest.raises(HarnessError, match="not in the guest's RAM"):
        fork.ram.spots([PAGE, 3 * MIB], 8)
    fork.end()
    with pytest.raises(HarnessError):
        look()


def test_writes_reach_the_fork_alone(fork: Fork, other: Fork, template: Path) -> None:
    before = template.read_bytes()
    fork.ram.write(3 * PAGE - 4, np.arange(4, dtype=np.uint32))
    assert fork.ram.array(3 * PAGE - 4, 16).view(np.uint32).tolist() == [0, 1, 2, 3]
    assert fork.ram.written().tolist() == [2, 3]
    assert other.ram.read(3 * PAGE, 12) == bytes(12)
    assert not other.ram.written().size
    assert template.read_bytes() == before
    with pytest.raises(HarnessError, match="a template's memory is never written"):
        fork.ram.template().write(0, b"no")


def test_what_is_not_ram_is_refused(fork: Fork) -> None:
    for address, size in ((3 * MIB - 1, 2), (4 * MIB, 1), (17 * MIB, 1), (-1, 1), (0, 0), (0, -4)):
        with pytest.raises(HarnessError, match="not in the guest's RAM"):
            fork.ram.read(address, size)
        with pytest.raises(HarnessError, match="not in the guest's RAM"):
            fork.ram.write(address, bytes(max(size, 0)))
    with pytest.raises(HarnessError, match="page 0x300"):
        list(fork.ram.chunks(np.array([1, 0x300])))


def test_looking_at_everything_makes_no_page(fork: Fork, template: Path) -> None:
    fork.put(5 * PAGE, "mine")
    # That filled a hole of the template with zeros: the kernel copies a page from there.
    occupied = in_use(template)
    before = fork.ram.written()
    assert len(fork.ram.read(0, 3 * MIB)) == 3 * MIB
    assert list(ram_scan.find(fork.ram, b"mine")) == [5 * PAGE]
    ram_scan.digests(fork.ram)
    ram_scan.differing(fork.ram, fork.ram.template())
    assert fork.ram.written().tolist() == before.tolist() == [5]
    assert in_use(template) == occupied


def test_a_process_that_has_ended_is_an_error(fork: Fork) -> None:
    fork.process.kill()
    fork.process.wait()
    for call in (fork.ram.written, fork.ram.touched, lambda: fork.ram.read(0, 1)):
        with pytest.raises(HarnessError, match=r"cannot be accessed|has ended"):
            call()
    with pytest.raises(HarnessError, match="cannot be accessed"):
        find_mapping(fork.process.pid, os.fstat(fork.file.fileno()))
    fork.file.close()
    with pytest.raises(HarnessError, match="the machine is gone"):
        fork.ram.template().read(0, 1)


def test_a_process_without_the_file_is_an_error(tmp_path: Path) -> None:
    with (tmp_path / "file").open("wb") as file, pytest.raises(HarnessError, match="does not map"):
        find_mapping(os.getpid(), os.fstat(file.fileno()))


def test_a_search_finds_each_place_once(fork: Fork) -> None:
    fork.put(7 * PAGE - 2, "aaaa")
    found = [7 * PAGE - 2, 7 * PAGE - 1, 7 * PAGE]
    assert list(ram_scan.find(fork.ram, b"aa")) == found
    assert list(ram_scan.find(fork.ram, b"across")) == [2 * PAGE - 3]
    assert list(ram_scan.find(fork.ram, b"behind")) == [BEHIND + PAGE]
    assert list(ram_scan.find(fork.ram, b"aa", [Region(7 * PAGE - 1, PAGE)])) == found[1:]
    # Zeros that untouched pages hold belong to a match like all others.
    fork.put(10 * PAGE - 1, "z")
    zeros = bytes(3 * PAGE)
    assert list(ram_scan.find(fork.ram, b"z" + zeros)) == [10 * PAGE - 1]
    assert list(ram_scan.find(fork.ram, bytes(PAGE) + b"\0z")) == [9 * PAGE - 2]
    with pytest.raises(UsageError):
        next(ram_scan.find(fork.ram, zeros))
    assert not list(ram_scan.find(fork.ram, b"x" * 4 * MIB))


def test_pages_that_hold_something(fork: Fork) -> None:
    fork.put(5 * PAGE - 1, "x")
    fork.ram.write(7 * PAGE, bytes(PAGE))
    assert ram_scan.filled(fork.ram).tolist() == [1, 2, 4, BEHIND // PAGE + 1]
    assert ram_scan.filled(fork.ram, np.array([0, 4, 7])).tolist() == [4]
    assert not ram_scan.filled(fork.ram, np.empty(0, np.int64)).size


def test_digests_tell_what_changed(fork: Fork, other: Fork) -> None:
    before = ram_scan.digests(fork.ram)
    assert before.pages.tolist() == [1, 2, BEHIND // PAGE + 1]
    assert before.of(Region(0, MIB)) == ram_scan.digests(other.ram).of(Region(0, MIB))
    fork.put(PAGE, "new")
    fork.put(9 * PAGE, "new")
    after = ram_scan.digests(fork.ram)
    assert after.changed_since(before).tolist() == before.changed_since(after).tolist() == [1, 9]
    assert not after.changed_since(after).size
    assert after.of(Region(0, MIB)) != before.of(Region(0, MIB))
    assert after.of(Region(BEHIND, MIB)) == before.of(Region(BEHIND, MIB))
    # A page that was written with zeros is as good as one that was not.
    fork.ram.write(9 * PAGE, bytes(3))
    assert ram_scan.digests(fork.ram).changed_since(before).tolist() == [1]
    assert ram_scan.digests(fork.ram, np.array([1, 9])).pages.tolist() == [1]
    assert not ram_scan.digests(fork.ram, np.empty(0, np.int64)).pages.size
    with pytest.raises(UsageError):
        after.of(Region(1, PAGE))


def test_forks_are_compared(fork: Fork, other: Fork, tmp_path: Path) -> None:
    assert not ram_scan.differing(fork.ram, other.ram).size
    fork.put(0, "mine")
    other.put(3 * MIB, "other")
    other.put(PAGE + 100, "from")
    assert ram_scan.differing(fork.ram, other.ram).tolist() == [0, BEHIND // PAGE]
    assert ram_scan.differing(other.ram, other.ram.template()).tolist() == [BEHIND // PAGE]
    assert not ram_scan.differing(fork.ram.template(), other.ram.template()).size
    with (tmp_path / "empty").open("w+b") as file:
        os.truncate(file.fileno(), 4 * MIB)
        empty = Ram(file, Layout(SPLIT))
        assert ram_scan.differing(fork.ram, empty).tolist() == [0, 1, 2, BEHIND // PAGE + 1]
        with pytest.raises(HarnessError, match="different memory layouts"):
            ram_scan.differing(fork.ram, Ram(file, Layout([Region(0, 4 * MIB)])))


def test_shared_memory_is_its_file(template: Path) -> None:
    with template.open("r+b") as file, mmap.mmap(file.fileno(), 0) as memory:
        assert not find_mapping(os.getpid(), os.fstat(file.fileno()))[1]
        ram = Ram(file, Layout(SPLIT))
        ram.write(BEHIND + 5 * PAGE, b"outside")
        assert memory[3 * MIB + 5 * PAGE : 3 * MIB + 5 * PAGE + 7] == b"outside"
        memory[8 * PAGE] = 1
        assert ram.written().tolist() == [1, 2, 8, BEHIND // PAGE + 1, BEHIND // PAGE + 5]
        with pytest.raises(HarnessError, match="no fork"):
            ram.template()


def test_a_short_file_is_an_error(template: Path) -> None:
    with template.open("rb") as file, pytest.raises(HarnessError, match="shorter"):
        Ram(file, Layout([Region(0, 5 * MIB)])).read(4 * MIB, 1)


@given(st.sets(st.integers(0, 200)))
def test_runs_are_the_pages(pages: set[int]) -> None:
    starts, lengths = runs(np.array(sorted(pages), np.int64))
    assert [s + n for s, c in zip(starts, lengths, strict=True) for n in range(c)] == sorted(pages)
    assert (np.diff(starts) > lengths[:-1]).all()


@given(st.lists(st.tuples(st.integers(0, 63), st.integers(1, 9)), max_size=12))
def test_any_mix_of_own_pages_and_the_files_is_read(writes: list[tuple[int, int]]) -> None:
    with tempfile.TemporaryFile(dir="/dev/shm") as file, _private(file) as memory:
        expected = bytearray(64 * PAGE)
        address, _ = find_mapping(os.getpid(), os.fstat(file.fileno()))
        ram = Ram(file, Layout([Region(0, 64 * PAGE)]), PrivatePages(os.getpid(), address, 64 * PAGE))
        for number, (page, value) in enumerate(writes):
            if number % 2:
                memory[page * PAGE + value] = expected[page * PAGE + value] = value
            elif page not in ram.written():
                os.pwrite(file.fileno(), bytes([value]), page * PAGE)
                expected[page * PAGE] = value
        ram = Ram(file, Layout([Region(0, 64 * PAGE)]), PrivatePages(os.getpid(), address, 64 * PAGE))
        assert ram.read(0, 64 * PAGE) == expected
        assert set(ram.written()) == {page for page, _ in writes[1::2]}
        seen = bytearray(64 * PAGE)
        for pages, rows in ram.chunks():
            for page, row in zip(pages, rows, strict=True):
                seen[page * PAGE : (page + 1) * PAGE] = row.tobytes()
        assert seen == expected


def _private(file: BinaryIO) -> mmap.mmap:
    os.truncate(file.fileno(), 64 * PAGE)
    return mmap.mmap(file.fileno(), 0, flags=mmap.MAP_PRIVATE)
