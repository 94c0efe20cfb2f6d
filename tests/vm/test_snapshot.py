# SPDX-License-Identifier: MIT
"""Frozen machines, forks of them, and the shelf that keeps them."""

from __future__ import annotations

import hashlib
import os
import pickle
import signal
import subprocess
import sys
import threading
import time
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import msgspec
import pytest

from harness.errors import HarnessError
from harness.vm import memory, snapshot
from harness.vm.accel import Accel
from harness.vm.machine import Machine, MachineSpec, State
from harness.vm.migration import ForkError
from harness.vm.shelf import Shelf
from harness.vm.snapshot import Stage

HARNESS = """
import pickle, sys
from harness.vm import snapshot
folder, accel = pickle.load(sys.stdin.buffer)
stage = snapshot.read(folder)
while True:
    with stage.fork(accel) as machine:
        print(machine.pid, flush=True)
"""


@pytest.fixture(scope="module")
def shelf() -> Iterator[Shelf]:
    """A shelf of the tests' own; at their end nothing is left of it."""
    root = memory.SHM / f"mkharness-test-{os.getpid()}"
    shelf = Shelf((root, root / "disk"))
    yield shelf
    subprocess.run(["rm", "-rf", root], check=True)


@pytest.fixture(scope="module")
def stage(shelf: Shelf, spec: MachineSpec, accel: Accel) -> Stage:
    """A guest with a file in its memory and a process that counts."""
    return shelf.obtain("template", spec.memory_mib << 20, lambda folder: prepare(folder, spec, accel))


def prepare(folder: Path, spec: MachineSpec, accel: Accel) -> None:
    with Machine(spec, accel, ram_folders=(folder.parent,)) as machine:
        guest = machine.channel("guest")
        guest.run("echo from the template >/tmp/file").check()
        guest.run("(while sleep 0.1; do echo >>/tmp/beats; done) >/dev/null 2>&1 &").check()
        snapshot.freeze(machine, folder, {"answer": 42})
        assert machine.state is State.GONE


def beats(machine: Machine) -> int:
    return int(machine.channel("guest").run("cat /tmp/beats | wc -l").text)


def digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def children() -> set[str]:
    """Return the processes that this one has started."""
    return {
        stat.parent.name
        for stat in Path("/proc").glob("[0-9]*/stat")
        if stat.exists() and stat.read_text().rpartition(")")[2].split()[1] == str(os.getpid())
    }


def open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def test_a_fork_goes_on_where_its_template_was(stage: Stage, accel: Accel) -> None:
    with stage.fork(accel) as machine:
        guest, console = machine.channel("guest"), machine.console("guest")
        assert guest.run("cat /tmp/file").text == "from the template"
        limit = time.monotonic() + 10 * accel.factor
        before = beats(machine)
        while beats(machine) == before and time.monotonic() < limit:
            time.sleep(0.05)
        assert beats(machine) > before, "what ran in the background has stopped"
        assert console.saw("Linux version"), "what was printed before the fork is missing"
        started = [line.time for line in console.lines()]
        assert started == sorted(started)
        guest.run("echo printed by the fork >/dev/ttyS2").check()
        assert console.expect(r"printed by the fork\r\n")
        assert guest.resent == 0


def test_what_was_printed_before_is_not_waited_for(stage: Stage, accel: Accel) -> None:
    with stage.fork(accel) as machine, pytest.raises(HarnessError, match="did not come"):
        machine.console("guest").expect("Linux version", timeout=0.1)


def test_forks_do_not_see_each_other_and_the_template_stays(stage: Stage, accel: Accel) -> None:
    before = [digest(stage.folder / name) for name in (snapshot.RAM, snapshot.STATE, snapshot.META)]
    with stage.fork(accel) as one, stage.fork(accel) as other:
        one.channel("guest").run(
            "echo mine >/tmp/file; dd if=/dev/urandom of=/tmp/big bs=1M count=16"
        ).check()
        assert other.channel("guest").run("cat /tmp/file; ls /tmp").text.split("\n") == [
            "from the template",
            "beats",
            "file",
        ]
        assert one.channel("guest").run("cat /tmp/file").text == "mine"
    assert [digest(stage.folder / name) for name in (snapshot.RAM, snapshot.STATE, snapshot.META)] == before


def test_the_stage_tells_what_it_is(stage: Stage, spec: MachineSpec, accel: Accel) -> None:
    assert stage.meta.spec == spec
    assert (stage.meta.qemu, stage.meta.accel) == (snapshot.qemu_version(), accel.name)
    assert bytes(stage.meta.payload) == b'{"answer":42}'
    occupied = memory.in_use(stage.folder)
    assert occupied < spec.memory_mib << 19, f"{occupied >> 20} MiB: the holes are gone"


def test_a_stage_on_top_of_a_stage(stage: Stage, shelf: Shelf, spec: MachineSpec, accel: Accel) -> None:
    before = digest(stage.folder / snapshot.RAM)

    def make(folder: Path) -> None:
        with stage.derive(accel, (folder.parent,)) as machine:
            machine.channel("guest").run("echo from the second >>/tmp/file").check()
            snapshot.freeze(machine, folder)

    second = shelf.obtain("second", spec.memory_mib << 20, make)
    with second.fork(accel) as machine:
        assert machine.channel("guest").run("cat /tmp/file").text == "from the template\nfrom the second"
        assert machine.console("guest").saw("Linux version")
    assert digest(stage.folder / snapshot.RAM) == before
    assert shelf.remove("second")


def test_twenty_in_a_row_and_four_at_a_time(stage: Stage, accel: Accel) -> None:
    def fork(number: int) -> str:
        with stage.fork(accel) as machine:
            return machine.channel("guest").run(f"echo {number} >/tmp/n; cat /tmp/file /tmp/n").text

    expected = [f"from the template\n{number}" for number in range(20)]
    fork(0)
    files, threads, machines = open_files(), threading.active_count(), children()
    assert [fork(number) for number in range(20)] == expected
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(fork, range(20))) == expected
    limit = time.monotonic() + 10
    while (open_files() > files or threading.active_count() > threads) and time.monotonic() < limit:
        time.sleep(0.05)
    assert (open_files(), threading.active_count()) == (files, threads)
    assert children() == machines
    assert {file.name for file in stage.folder.iterdir()} == {"ram", "state", "meta.json"}


@pytest.mark.parametrize("delay", [0.0, 0.02, 0.05, 0.08])
def test_a_harness_killed_while_it_forks_leaves_nothing(
    stage: Stage, accel: Accel, tmp_path: Path, delay: float
) -> None:
    before = set(memory.SHM.iterdir())
    with subprocess.Popen(
        [sys.executable, "-c", HARNESS],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, "TMPDIR": str(tmp_path)},
    ) as harness:
        assert harness.stdin is not None
        assert harness.stdout is not None
        pickle.dump((stage.folder, accel), harness.stdin)
        harness.stdin.close()
        harness.stdout.readline()
        time.sleep(delay)
        harness.send_signal(signal.SIGKILL)
        harness.wait()
    needle = str(tmp_path).encode()
    limit = time.monotonic() + 10

    def left() -> list[str]:
        processes = []
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                if needle in (folder / "cmdline").read_bytes():
                    processes.append(folder.name)
            except OSError:
                continue
        return processes + [str(file) for file in tmp_path.iterdir()]

    while left() and time.monotonic() < limit:
        time.sleep(0.02)
    assert not left()
    assert set(memory.SHM.iterdir()) <= before
    with snapshot.holding(stage.folder, alone=True) as held:
        assert held, "a killed harness still holds the stage"


def test_a_stage_of_another_qemu_is_not_used(
    spec: MachineSpec, accel: Accel, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = snapshot.digest_of(spec, accel, "steps")
    assert snapshot.digest_of(spec, accel, "steps") == here
    assert snapshot.digest_of(spec, accel, "other steps") != here
    monkeypatch.setattr(snapshot, "qemu_version", lambda: "QEMU emulator version 99.0")
    assert snapshot.digest_of(spec, accel, "steps") != here


@pytest.mark.parametrize("checked", [True, False], ids=["by its checksum", "by QEMU"])
def test_a_damaged_state_is_a_fork_error(stage: Stage, accel: Accel, tmp_path: Path, checked: bool) -> None:
    folder = tmp_path / "stage"
    folder.mkdir()
    os.symlink(stage.folder / snapshot.RAM, folder / snapshot.RAM)
    (folder / snapshot.META).write_bytes((stage.folder / snapshot.META).read_bytes())
    state = bytearray((stage.folder / snapshot.STATE).read_bytes())
    (folder / snapshot.STATE).write_bytes(state[: len(state) // 2])
    damaged = snapshot.read(folder)
    assert damaged is not None
    if not checked:
        checksum = zlib.crc32((folder / snapshot.STATE).read_bytes())
        damaged = Stage(folder, msgspec.structs.replace(damaged.meta, checksum=checksum))
    with (
        pytest.raises(ForkError, match="damaged" if checked else "did not go on") as caught,
        damaged.fork(accel),
    ):
        pass
    assert checked or "migration" in str(caught.value)


def test_nothing_is_frozen_under_a_command(stage: Stage, accel: Accel, tmp_path: Path) -> None:
    with stage.fork(accel) as machine, ThreadPoolExecutor(1) as pool:
        command = pool.submit(machine.channel("guest").run, "echo begun >/dev/ttyS2; sleep 60", 100)
        machine.console("guest").expect("begun")
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(snapshot, "IDLE_WAIT", 0.1)
            with pytest.raises(HarnessError, match="a command is under way in guest"):
                snapshot.freeze(machine, tmp_path)
        machine.end()
        with pytest.raises(HarnessError):
            command.result()
