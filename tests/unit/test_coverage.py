# SPDX-License-Identifier: MIT
"""Counters read out of memory say of each line what gcc's own library would have said.

The program is compiled and run here; its memory stands for a kernel's.
"""

from __future__ import annotations

import mmap
import os
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np
import pytest

from harness import coverage
from harness.build import Build, series
from harness.build import coverage as notes
from harness.build.apply import apply_series
from harness.build.kconfig import Wish
from harness.build.source import Source
from harness.coverage import About, Collector, Tally
from harness.definition import load_definition
from harness.errors import HarnessError, UsageError
from harness.klog.gcov import Counts, Unit, executed, gcc_version, gcda, read_units
from harness.model import Region
from harness.oracle.coverage import ALIGN, Counters
from harness.report import coverage as report
from harness.vm.ram import Ram
from harness.vm.ram_layout import Layout
from harness.vm.ram_pages import PrivatePages, find_mapping

pytest_plugins = "pytester"

PROGRAM = """
#include <stdio.h>
#include "part.h"

const char linux_banner[] = "a program, not Linux";

static int never(int value)
{
	return value * 3;
}

int main(int count, char **words)
{
	for (int n = 0; n < 5; n++)
		count += part(n);
	if (count > 1000)
		printf("%d\\n", never(count));
	puts(linux_banner);
	fflush(stdout);
	getchar();
	puts("bye");
	return 0;
}
"""
HEADER = """
__attribute__((noinline)) static int part(int value)
{
	if (value > 2)
		return 1;
	if (value < -50)
		puts("large");
	return 2;
}
"""
WAITS, AFTER = "\tgetchar();", '\tputs("bye");'
"""Where the program waits while it is looked at, and what it does only afterwards."""
FLAGS = ["-O2", *notes.FLAGS.split()]
START = 0x40_0000
"""Where a program that is linked for a fixed address begins."""


def line_of(text: str, wanted: str) -> int:
    return text.splitlines().index(wanted) + 1


@dataclass
class Running:
    """The program, waiting; what is in its memory can be read."""

    folder: Path
    process: subprocess.Popen[bytes]

    @property
    def file(self) -> Path:
        return self.folder / "program"

    def read(self, address: int, size: int) -> bytes:
        with open(f"/proc/{self.process.pid}/mem", "rb", buffering=0) as memory:
            return os.pread(memory.fileno(), size, address)

    def values(self, unit: Unit) -> Counts:
        areas = [(at, number) for function in unit.functions for _, at, number in function.counters]
        return np.concatenate([np.frombuffer(self.read(at, 8 * number), np.uint64) for at, number in areas])

    def lines(self, unit: Unit, values: Counts) -> dict[int, int]:
        """Return what gcov tells of the program's own file from ``values``."""
        mine = self.folder / "mine"
        mine.mkdir(exist_ok=True)
        (mine / "program.gcno").write_bytes((self.folder / "program.gcno").read_bytes())
        (mine / "program.gcda").write_bytes(gcda(unit, values))
        return executed([mine / "program.gcda"])["program.c"]

    def ends(self) -> None:
        """Let the program end, and gcc's library write its file."""
        self.process.communicate(b"\n")


@pytest.fixture
def running(tmp_path: Path) -> Iterator[Running]:
    (tmp_path / "program.c").write_text(PROGRAM)
    (tmp_path / "part.h").write_text(HEADER)
    for command in (
        ["gcc", *FLAGS, "-fno-pie", "-c", "program.c", "-o", "program.o"],
        ["gcc", "--coverage", "-no-pie", f"-Wl,--defsym,_text={START:#x}", "program.o", "-o", "program"],
    ):
        subprocess.run(command, cwd=tmp_path, check=True)
    process = subprocess.Popen([tmp_path / "program"], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.readline()
    yield Running(tmp_path, process)
    process.kill()
    process.wait()


def test_lines_are_what_gccs_own_library_tells(running: Running) -> None:
    (unit,) = read_units(running.file)
    lines = running.lines(unit, running.values(unit))
    assert lines[line_of(PROGRAM, AFTER)] == 0
    assert lines[line_of(PROGRAM, "\treturn value * 3;")] == 0
    running.ends()
    told = executed([running.folder / "program.gcda"])["program.c"]
    # Only what came after the look differs.
    assert {line for line in told if told[line] != lines[line]} == {
        line_of(PROGRAM, text) for text in (AFTER, "\treturn 0;") if line_of(PROGRAM, text) in told
    }


def test_a_headers_lines_count_as_its_own(running: Running) -> None:
    (unit,) = read_units(running.file)
    running.lines(unit, running.values(unit))
    told = executed([running.folder / "mine" / "program.gcda"])["part.h"]
    assert told[line_of(HEADER, "\tif (value > 2)")] == 5
    assert told[line_of(HEADER, '\t\tputs("large");')] == 0


def test_counts_of_two_kernels_add_up(running: Running) -> None:
    (unit,) = read_units(running.file)
    once = running.lines(unit, running.values(unit))
    assert running.lines(unit, running.values(unit) * 2) == {line: 2 * n for line, n in once.items()}


def test_too_few_values_and_foreign_notes_are_refused(running: Running) -> None:
    (unit,) = read_units(running.file)
    with pytest.raises(HarnessError, match=f"has {unit.size} counters, not 1"):
        gcda(unit, np.zeros(1, np.uint64))
    other = msgspec.structs.replace(unit, stamp=unit.stamp ^ 1)
    with pytest.raises(HarnessError, match="gcov does not take") as caught:
        running.lines(other, running.values(unit))
    assert "stamp mismatch" in caught.value.details


def test_a_program_without_counters_has_no_units(tmp_path: Path) -> None:
    (tmp_path / "a.c").write_text("int main(void) { return 0; }")
    subprocess.run(["gcc", "-no-pie", "a.c"], cwd=tmp_path, check=True)
    assert read_units(tmp_path / "a.out") == ()


def test_versions_of_gcc() -> None:
    words = {
        version: int.from_bytes(text, "big")
        for version, text in ((10, b"B03*"), (12, b"B22*"), (15, b"B51*"))
    }
    assert {version: gcc_version(word) for version, word in words.items()} == {10: 10, 12: 12, 15: 15}
    with pytest.raises(HarnessError, match="not known"):
        gcc_version(int.from_bytes(b"A93*", "big"))


SIZE = 4 * ALIGN


@dataclass
class Memory:
    """A machine's memory: a template's file, and a private mapping of it like a fork's."""

    file: Path
    mapping: mmap.mmap

    @property
    def ram(self) -> Ram:
        opened = self.file.open("rb")
        address, private = find_mapping(os.getpid(), os.stat(self.file))
        assert private
        return Ram(opened, Layout([Region(0, SIZE)]), PrivatePages(os.getpid(), address, SIZE))


@pytest.fixture
def memory() -> Iterator[Memory]:
    with tempfile.NamedTemporaryFile(dir="/dev/shm") as file:
        os.truncate(file.fileno(), SIZE)
        with mmap.mmap(file.fileno(), SIZE, flags=mmap.MAP_PRIVATE) as mapping:
            yield Memory(Path(file.name), mapping)


def image(running: Running) -> bytes:
    """Return the program as it is in memory, from _text on."""
    maps = Path(f"/proc/{running.process.pid}/maps").read_text().splitlines()
    parts = [line.split("-")[:2] for line in maps if line.endswith("/program")]
    end = max(int(part[1].split()[0], 16) for part in parts)
    # The pages in which its variables end are nobody's file's.
    return running.read(START, end - START)


def test_every_kernel_in_memory_is_counted_whatever_became_of_it(running: Running, memory: Memory) -> None:
    counters = Counters(running.file)
    (unit,) = counters.units
    whole = image(running)
    assert counters.read(memory.ram) == []
    for base in (ALIGN, 3 * ALIGN):
        memory.mapping[base : base + len(whole)] = whole
    found = counters.read(memory.ram)
    assert [values.tolist() for values in found] == [running.values(unit).tolist()] * 2


def test_an_image_of_another_build_is_not_counted(running: Running, memory: Memory) -> None:
    counters = Counters(running.file)
    whole = image(running)
    memory.mapping[ALIGN : ALIGN + len(whole)] = whole
    at = ALIGN + counters.units[0].stamp_at - START
    memory.mapping[at : at + 1] = bytes([memory.mapping[at] ^ 1])
    assert counters.read(memory.ram) == []


@pytest.mark.parametrize("left", [b"text", bytes(4)], ids=["other things", "zeros"])
def test_memory_that_was_used_again_is_not_counted(running: Running, memory: Memory, left: bytes) -> None:
    counters = Counters(running.file)
    whole = image(running)
    with memory.file.open("r+b") as template:
        os.pwrite(template.fileno(), whole, ALIGN)
    assert len(counters.read(memory.ram)) == 1
    (unit,) = counters.units
    first = min(at for function in unit.functions for _, at, _ in function.counters)
    at, size = ALIGN + first - START, 8 * unit.size
    memory.mapping[at : at + size] = left * (size // 4)
    assert counters.read(memory.ram) == []


BASE = "one\ntwo\nthree\nfour\n"


def applied(tmp_path: Path):
    """A series that adds a C file, changes another and a header, and touches what is neither."""
    tree = tmp_path / "tree"
    tree.mkdir()
    for name in ("old.c", "old.h", "Makefile"):
        (tree / name).write_text(BASE)
    change = "@@ -1,4 +1,5 @@\n one\n-two\n+TWO\n+2\n three\n four\n"
    parts = [f"--- a/{name}\n+++ b/{name}\n{change}" for name in ("old.c", "old.h", "Makefile")]
    parts.append("--- /dev/null\n+++ b/kernel/new.c\n@@ -0,0 +1,2 @@\n+1\n+2\n")
    patches = (series.Patch("1.patch", "subject", "".join(parts).encode()),)
    return apply_series(Source("path", "source", "digest", tree), series.Series(None, patches))


WISH = (Wish("GCOV_KERNEL", "y", "gcov", 1),)


def test_lines_under_test_are_those_the_series_added(tmp_path: Path) -> None:
    (tmp_path / "tree2" / "mkharness-build" / "kernel").mkdir(parents=True)
    (tmp_path / "tree2" / "mkharness-build" / "kernel" / "new.gcno").write_bytes(b"notes")
    notes.keep(applied(tmp_path), tmp_path / "tree2", tmp_path / "entry")
    kept = tmp_path / "entry" / notes.FOLDER
    assert notes.read_series(kept) == {"kernel/new.c": [(1, 2)], "old.c": [(2, 3)], "old.h": [(2, 3)]}
    assert (kept / "old.c").read_text() == "one\nTWO\n2\nthree\nfour\n"
    assert (kept / "kernel" / "new.gcno").read_bytes() == b"notes"


def test_only_the_c_files_that_the_series_touches_get_counters(tmp_path: Path) -> None:
    """Real make, as Kbuild uses it: the flags are expanded in another make, in each object's rule."""
    (tmp_path / "Makefile").write_text(
        "CFLAGS_GCOV := -everywhere\nexport CFLAGS_GCOV\nall:\n\t@$(MAKE) --no-print-directory -f inner\n"
    )
    (tmp_path / "inner").write_text(
        ".PHONY: all\nall: kernel/new.o kernel/other.o old.o sub/old.o\n%.o:\n\t@echo $@: $(CFLAGS_GCOV)\n"
    )
    given = notes.variables(WISH, applied(tmp_path))
    # Below another make, as in `make test`, make says where it is.
    command = ["make", "--no-print-directory", *given]
    said = subprocess.run(command, cwd=tmp_path, check=True, capture_output=True, text=True).stdout
    assert said.splitlines() == [
        f"kernel/new.o: {notes.FLAGS}",
        "kernel/other.o:",
        f"old.o: {notes.FLAGS}",
        "sub/old.o:",
    ]


def test_a_build_without_the_fragment_is_made_as_ever(tmp_path: Path) -> None:
    assert notes.variables((Wish("MODULES", "y", "base", 1),), applied(tmp_path)) == []


def folder_of(running: Running, folder: Path, added: str, *counts: list[int]) -> Path:
    """Make a folder as --coverage does, of the program in place of a kernel."""
    kept = folder / "build"
    kept.mkdir(parents=True)
    (kept / "program.gcno").write_bytes((running.folder / "program.gcno").read_bytes())
    (kept / "program.c").write_text(PROGRAM)
    (kept / notes.SERIES).write_text(added)
    about = About("mine+gcov", "digest", read_units(running.file))
    (kept / "about.json").write_bytes(msgspec.json.encode(about))
    for at, values in enumerate(counts):
        tally = Tally(machines=1, kernels=2, gone=0, counts=values)
        (folder / f"counts-{at}.json").write_bytes(msgspec.json.encode(tally))
    return folder


def test_a_folder_tells_of_added_lines_alone(running: Running, tmp_path: Path) -> None:
    (unit,) = read_units(running.file)
    values = running.values(unit).tolist()
    never, last = line_of(PROGRAM, "\treturn value * 3;"), line_of(PROGRAM, AFTER)
    first = line_of(PROGRAM, "\tfor (int n = 0; n < 5; n++)")
    added = msgspec.json.encode(
        {"program.c": [[never, never], [first, last + 1]], "gone.c": [[1, 2]]}
    ).decode()
    folder = folder_of(running, tmp_path / "counts", added, values, values)
    found = coverage.read(folder)
    program, gone = found.files
    assert program.unexecuted[0] == (never, never)
    assert program.unexecuted[-1][0] == last
    assert 0 < program.executed < program.lines
    everything = folder_of(running, tmp_path / "all", '{"program.c": [[1, 99]]}', values)
    assert program.lines < coverage.read(everything).whole.lines
    assert (gone.lines, gone.counted) == (0, False)
    assert (found.machines, found.kernels) == (2, 4)
    assert "without counters: gone.c" in report.notes(found)
    assert any("value * 3" in line for line in report.lines(found, folder))
    assert not any("getchar" in line for line in report.lines(found, folder))
    told = msgspec.json.decode(report.json(found))
    assert told["percent"] == round(100 * told["executed"] / told["lines"], 1)


def built(running: Running, folder: Path, digest: str) -> Build:
    """Make a build of the program, as if it were a kernel."""
    (folder / notes.FOLDER).mkdir(parents=True, exist_ok=True)
    (folder / "vmlinux").write_bytes(running.file.read_bytes())
    (folder / notes.FOLDER / notes.SERIES).write_text('{"program.c": [[1, 99]]}')
    (folder / notes.FOLDER / "program.gcno").write_bytes((running.folder / "program.gcno").read_bytes())
    definition = load_definition("reference+gcov")
    return Build(definition, digest, "7.3", folder, "", reused=True)


def test_what_several_processes_count_adds_up(running: Running, memory: Memory, tmp_path: Path) -> None:
    build, whole = built(running, tmp_path / "entry", "digest"), image(running)
    memory.mapping[ALIGN : ALIGN + len(whole)] = whole
    first, second = (Collector(tmp_path / "counts", build) for _ in range(2))
    for collector in (first, second, second):
        collector.look(memory.ram)
    found = coverage.read(tmp_path / "counts")
    assert found.kernels == 3
    assert 0 < found.whole.executed < found.whole.lines


def test_a_folder_is_one_builds(running: Running, tmp_path: Path) -> None:
    Collector(tmp_path / "counts", built(running, tmp_path / "entry", "one"))
    with pytest.raises(UsageError, match="build one; this is other"):
        Collector(tmp_path / "counts", built(running, tmp_path / "entry", "other"))


def test_a_build_whose_notes_are_gone_is_refused(running: Running, tmp_path: Path) -> None:
    build = built(running, tmp_path / "entry", "one")
    (tmp_path / "entry" / notes.FOLDER / notes.SERIES).unlink()
    with pytest.raises(UsageError, match="no counters of a series"):
        Collector(tmp_path / "counts", build)


def test_a_folder_without_counts_says_that_nothing_was_executed(running: Running, tmp_path: Path) -> None:
    (unit,) = read_units(running.file)
    folder = folder_of(running, tmp_path / "counts", '{"program.c": [[1, 99]]}')
    assert coverage.read(folder).whole.executed == 0
    zeros = folder_of(running, tmp_path / "zeros", '{"program.c": [[1, 99]]}', [0] * unit.size)
    assert coverage.read(zeros).whole.executed == 0
    assert coverage.read(zeros).whole.lines > 5


@pytest.mark.parametrize(("counts", "why"), [("[1]", "other counts"), ("[-1", "no counts")])
def test_damaged_counts_are_named(running: Running, tmp_path: Path, counts: str, why: str) -> None:
    folder = folder_of(running, tmp_path / "counts", '{"program.c": [[1, 99]]}')
    text = f'{{"machines": 1, "kernels": 1, "gone": 0, "counts": {counts}}}'
    (folder / "counts-1.json").write_text(text)
    with pytest.raises(UsageError, match=f"counts-1.json holds {why}"):
        coverage.read(folder)


def test_a_folder_that_is_none_is_a_usage_error(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="holds no coverage"):
        coverage.read(tmp_path)


def test_a_kernel_without_counters_is_a_usage_error(pytester: pytest.Pytester) -> None:
    result = pytester.runpytest_subprocess("--coverage", "counts", "--kernel", "reference")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["*reference has no coverage counters*", "*reference+gcov*"])
