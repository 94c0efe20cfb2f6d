# SPDX-License-Identifier: MIT
"""Ten failures of different kinds are provoked for real; what each prints is kept and must stay as clear.

What is kept in tests/vm/explanations/ was printed by a run:

    MKHARNESS_REGENERATE=1 pytest tests/vm/test_explanations.py

Times, addresses and paths differ from run to run and are made the same before they are compared.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from difflib import unified_diff
from functools import cache
from pathlib import Path

import pytest

from harness import paths
from harness.build import Build, store

HERE = Path(__file__).parent
GOLDEN = HERE / "explanations"
MACHINES = "tests/vm/failing/machines.py"
LIMIT = 400
"""Seconds for all that need a machine, on a busy computer."""
PLACE = re.compile(
    r" +~?[\w/.-]+\.[chS]:\d+(?: in ~?[\w/.-]+\.[chS]:\d+)*$| \(~?[\w/.-]+\.[chS]:\d[^)]*\)|^\(~: .*\n", re.M
)
"""Files and lines are there when the tree is in which the kernel was built."""
BUSY = re.compile(r" \(This computer is busy: [^)]*\)")
LAST = re.compile(r"; last line 0\.0 s ago: .*")
PASSING = re.compile(r" +-0\.000 s  |    \S+\+0xN|  0\.7 s before|vCPU | \? |│|machines: ")
"""What else went on meanwhile: lines of consoles, stacks, idle vCPUs, rows of the map; what was booted."""
SAME = (
    (re.compile(r"/tmp/\S*/"), "TMP/"),
    (re.compile(r"^ *-?\d+\.\d{3} s  ", re.M), "   -0.000 s  "),
    (re.compile(r"\[ *\d+\.\d{6}\]"), "[    0.000000]"),
    (re.compile(r"\d+\.\d s ago"), "0.0 s ago"),
    (re.compile(r"\d{8}-\d{6}-(?=vm-failing)"), "TIME-"),
    (re.compile(r"(?<=-test_)(\w+)\.\d+$", re.M), r"\1"),
    (re.compile(r"--build [0-9a-f]{20}"), "--build DIGEST"),
    (re.compile(r"\b[0-9a-f]{16}\b"), "ADDRESS"),
    (re.compile(r"\b0x[0-9a-f]{5,}\b"), "0xADDRESS"),
    (re.compile(r"\+0x[0-9a-f]+(/0x[0-9a-f]+)?"), "+0xN"),
    (re.compile(r"\bP([GMU4]|)D [0-9a-f]+\b"), r"P\1D 0"),
    (re.compile(r"PID: \d+"), "PID: 0"),
    (re.compile(r"(?<=\[)\d+ lines: see above"), "N lines: see above"),
    (re.compile(r" +$", re.M), ""),
)
"""What is not the same in two runs, and what stands for it."""


def same(text: str) -> str:
    """Return what was printed as it is kept: without what differs from run to run."""
    text = text.replace(f"{paths.CHECKOUT}/", "").replace(str(paths.cache()), "CACHE")
    for pattern, instead in SAME:
        text = pattern.sub(instead, text)
    return text


def compared(text: str) -> list[str]:
    """Return the lines that must be the same: those that tell of the failure, not what else went on."""
    text = LAST.sub("", PLACE.sub("", BUSY.sub("", text)))
    return [line for line in text.splitlines() if not PASSING.match(line)]


@cache
def ran(*options: str) -> subprocess.CompletedProcess[str]:
    """Run failing tests in a pytest of their own."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith("PYTEST_")}
    environment |= {"COLUMNS": "100", "NO_COLOR": "1"}
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "--trust", *options]
    return subprocess.run(
        command,
        check=False,
        cwd=paths.CHECKOUT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=LIMIT,
    )


def part(output: str, title: str) -> str:
    """Return what a run printed about one test."""
    found = re.search(rf"^_+ (?:ERROR at \w+ of )?{title} _+\n(.*?)(?=^_+ |^=+ |\Z)", output, re.M | re.S)
    assert found is not None, output
    return same(found[1])


def check(name: str, text: str) -> None:
    """Compare with what is kept, or keep it."""
    file = GOLDEN / f"{name}.txt"
    if os.environ.get("MKHARNESS_REGENERATE"):
        file.parent.mkdir(exist_ok=True)
        file.write_text(text)
    assert compared(text) == compared(file.read_text())


ON_A_MACHINE = {
    "wrong_value": "the test's own check did not hold",
    "panic": "alpha printed: NULL pointer dereference in fault_write",
    "hang": "alpha hangs: its vCPU 3 spins in spin [mkfault] with interrupts off. host lives.",
    "lost_message": "the payload has not received the message b'second'",
    "stray_write": "1 pages were written that belong to nobody",
    "triple_fault": "It was vCPU 3 (alpha, in payload): its interrupt table is empty.",
    "qemu_killed": "QEMU was killed from outside, neither by a guest nor by mkharness",
    "time_out": "No kernel hangs. alpha and host answer.",
}
"""What a reader must find in each."""


@pytest.mark.parametrize("name", ON_A_MACHINE)
def test_failure_on_a_machine_explains_itself(build: Build, name: str) -> None:
    text = part(ran(MACHINES).stdout, f"test_{name}")
    assert "TimeoutError" not in text
    assert ON_A_MACHINE[name] in text
    check(name, text)


def test_stack_of_who_hangs_is_unwound_through_a_module(build: Build) -> None:
    """The tables of vmlinux do not know the module; behind it they do, down to the system call."""
    told = part(ran(MACHINES).stdout, "test_hang")
    stack = re.findall(r"^    (\w+)\+0xN( \[mkfault\])?", told, re.M)
    assert stack[:2] == [("spin", " [mkfault]"), ("fault_write", " [mkfault]")]
    names = [name for name, _ in stack]
    assert names[-4:] == ["vfs_write", "ksys_write", "do_syscall_64", "entry_SYSCALL_64_after_hwframe"]


def test_wait_says_at_half_of_its_time_that_it_goes_on(build: Build) -> None:
    assert re.search(
        r"test_time_out: still waiting for 'exactly what .* after 5 of 10 s; its last line",
        ran(MACHINES).stderr,
    )


def test_pool_that_the_host_itself_stands_in_is_told(build: Build, tmp_path: Path) -> None:
    """Its own choice of address (KASLR) brings it there; here the pool is where kernels are built for."""
    file = tmp_path / "low.toml"
    pair = (paths.TOPOLOGIES / "pair.toml").read_text()
    assert "start = 0x4000_0000" in pair
    file.write_text(pair.replace("start = 0x4000_0000", "start = 0x100_0000"))
    told = ran(f"{MACHINES}::test_hang", "--topology", str(file)).stdout
    assert (
        "The host's kernel is at 0x1000000, inside the pool (0x1000000-0x20ffffff), so it has no pool."
        in told
    )


def test_bad_definition_says_line_and_remedy(tmp_path: Path) -> None:
    file = tmp_path / "bad.toml"
    lines = ['summary = "bad"', 'dialect = "v3"', 'configs = ["base"]', 'topology = "pair"']
    file.write_text("\n".join(lines))
    done = ran(f"{MACHINES}::test_wrong_value", "--kernel", str(file))
    assert done.returncode == pytest.ExitCode.USAGE_ERROR
    check("bad_definition", same(done.stderr))


def test_build_error_says_file_and_line(build: Build, tmp_path: Path) -> None:
    broken = "kernel/bounds.c"
    source = paths.cache() / "sources" / store.read_meta(build.folder).source_tree / broken
    # The first file that is compiled.
    lines = source.read_text().splitlines(keepends=True)
    at = next(number for number, line in enumerate(lines) if line.startswith("int main"))
    changed = [*lines[:at], "this is no C;\n", *lines[at:]]
    diff = unified_diff(lines, changed, f"a/{broken}", f"b/{broken}")
    (tmp_path / "0001-broken.patch").write_text("".join(["Break it.\n", *diff]))
    done = ran(f"{MACHINES}::test_wrong_value", "--kernel", "mainline", "--series", str(tmp_path))
    assert "kernel/bounds.c:17:1: error: unknown type name 'this'" in done.stdout
    check("build_error", part(done.stdout, "test_wrong_value"))
