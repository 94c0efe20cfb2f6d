# SPDX-License-Identifier: MIT
"""What a guest has in memory, seen and changed from outside."""

from __future__ import annotations

import os
import re
import secrets
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from elftools.elf.elffile import ELFFile

from harness.build import Build
from harness.errors import HarnessError
from harness.lab import Pair
from harness.model import without
from harness.vm import memory, ram_scan, snapshot
from harness.vm.accel import Accel
from harness.vm.command import ChannelError
from harness.vm.machine import Cause, Machine, MachineSpec
from harness.vm.ram import ram_of
from harness.vm.ram_pages import PAGE
from harness.vm.ram_server import RamClient, RamServer
from harness.vm.registers import registers_of
from harness.vm.shelf import Shelf
from harness.vm.snapshot import Stage
from harness.vm.vmcore import KERNEL_MAP, find_vmcoreinfo, write_vmcore

CLIENT = """
import sys
from pathlib import Path
from harness.errors import HarnessError
from harness.vm.ram_server import RamClient
found, end = int(sys.argv[2]), int(sys.argv[3])
with RamClient(Path(sys.argv[1])) as client:
    print(client.read(found, 48).decode())
    print(found // 4096 in client.written())
    try:
        client.read(end - 4, 8)
    except HarnessError as error:
        print(error)
"""


@pytest.fixture(scope="module")
def stage(spec: MachineSpec, accel: Accel) -> Iterator[Stage]:
    root = memory.SHM / f"mkharness-test-ram-{os.getpid()}"

    def make(folder: Path) -> None:
        with Machine(spec, accel, ram_folders=(folder.parent,)) as machine:
            machine.channel("guest").wait_ready()
            snapshot.freeze(machine, folder)

    yield Shelf((root, root / "disk")).obtain("template", spec.memory_mib << 20, make)
    subprocess.run(["rm", "-rf", root], check=True)


@pytest.fixture
def fork(stage: Stage, accel: Accel) -> Iterator[Machine]:
    with stage.fork(accel) as machine:
        machine.channel("guest").wait_ready()
        yield machine


def put_marker(machine: Machine) -> bytes:
    """Write a page with random bytes at its beginning in the guest; return those."""
    marker = secrets.token_hex(24)
    # Two halves: the whole stands nowhere but in the file.
    command = f"(printf %s {marker[:24]}; printf %s {marker[24:]}; head -c 4000 /dev/zero) >/tmp/marker"
    machine.channel("guest").run(command).check()
    return marker.encode()


def mapped(machine: Machine) -> dict[str, int]:
    """Return what /proc/PID/smaps says of the mapping of the guest's memory, in KiB."""
    text = Path(f"/proc/{machine.pid}/smaps").read_text()
    inode = os.fstat(machine.ram.fileno()).st_ino
    block = re.search(rf"^\S+ \S+ \S+ \S+ {inode} .*\n((?:\w+:.*\n)+)", text, re.MULTILINE)
    assert block
    return {name: int(kib) for name, kib in re.findall(r"^(\w+): +(\d+) kB", block[1], re.MULTILINE)}


@pytest.mark.parametrize("which", ["shared", "fork"])
def test_the_guests_bytes_are_found_and_changed(request: pytest.FixtureRequest, which: str) -> None:
    machine: Machine = request.getfixturevalue(which)
    marker = put_marker(machine)
    ram = ram_of(machine)
    (found,) = [at for at in ram_scan.find(ram, marker) if at % PAGE == 0]
    assert ram.read(found, len(marker)) == marker
    assert found // PAGE in ram.written()
    ram.write(found + 8, b"WRITTEN FROM OUTSIDE")
    expected = marker[:8] + b"WRITTEN FROM OUTSIDE" + marker[28:]
    assert machine.channel("guest").run("head -c 48 /tmp/marker").text == expected.decode()


def test_the_pages_written_since_the_fork_are_few_and_true(fork: Machine) -> None:
    ram = ram_of(fork)
    before = ram.written()
    marker = put_marker(fork)
    fork.freeze()
    after = ram.written()
    (found,) = [at for at in ram_scan.find(ram, marker) if at % PAGE == 0]
    assert found // PAGE in set(after) - set(before)
    assert len(after) < len(ram.touched()) / 4, "most pages have never been written"
    # A page is copied before it is written, so not all that are there differ; all that differ are.
    differing = set(ram_scan.differing(ram, ram.template()))
    assert found // PAGE in differing
    assert differing <= set(after)
    everything = ram_scan.digests(ram).changed_since(ram_scan.digests(ram.template()))
    assert set(everything) == differing


def test_looking_at_everything_makes_no_page(fork: Machine, stage: Stage) -> None:
    fork.freeze()
    ram = ram_of(fork)
    occupied, before, written = memory.in_use(stage.folder), mapped(fork), ram.written()
    ram_scan.digests(ram)
    list(ram_scan.find(ram, secrets.token_bytes(16)))
    ram_scan.differing(ram, ram.template())
    ram.array(ram.regions[0].start, ram.regions[0].size)
    after = mapped(fork)
    # What of it is shared says who else has the file mapped, and the reader has.
    for what in ("Rss", "Anonymous", "Swap"):
        assert after[what] == before[what], f"{what} of QEMU's mapping changed"
    assert ram.written().tolist() == written.tolist()
    assert memory.in_use(stage.folder) == occupied, "holes of the template were filled"


def test_two_forks_differ_only_where_they_wrote(fork: Machine, stage: Stage, accel: Accel) -> None:
    with stage.fork(accel) as other:
        other.channel("guest").wait_ready()
        marker = put_marker(fork)
        for machine in (fork, other):
            machine.freeze()
        ram, its = ram_of(fork), ram_of(other)
        (found,) = [at for at in ram_scan.find(ram, marker) if at % PAGE == 0]
        differing = set(ram_scan.differing(ram, its))
        assert found // PAGE in differing
        assert differing <= set(ram.written()) | set(its.written())
        assert differing == set(ram_scan.digests(ram).changed_since(ram_scan.digests(its)))


def test_the_core_file_is_what_the_fork_holds(
    fork: Machine, stage: Stage, spec: MachineSpec, tmp_path: Path
) -> None:
    marker = put_marker(fork)
    fork.freeze()
    ram, path = ram_of(fork), tmp_path / "vmcore"
    occupied, written = memory.in_use(stage.folder), ram.written()
    (found,) = [at for at in ram_scan.find(ram, marker) if at % PAGE == 0]
    registers = registers_of(fork.qmp)
    assert len(registers) == spec.vcpus
    (info,) = find_vmcoreinfo(ram)
    write_vmcore(ram, registers, path, info)
    assert ram.written().tolist() == written.tolist()
    assert memory.in_use(stage.folder) == occupied
    with path.open("rb") as file:
        elf = ELFFile(file)
        loads = [s for s in elf.iter_segments("PT_LOAD") if s["p_vaddr"] < KERNEL_MAP]
        (load,) = [s for s in loads if s["p_paddr"] <= found < s["p_paddr"] + s["p_filesz"]]
        assert load.data()[found - load["p_paddr"] :].startswith(marker)
        for load in loads:
            assert load.data() == ram.read(load["p_paddr"], load["p_filesz"])
    told = subprocess.run(["readelf", "-hln", path], capture_output=True, text=True, check=True)
    assert not told.stderr, "readelf warns"
    assert told.stdout.count("NT_PRSTATUS") == spec.vcpus


def test_gdb_reads_the_core_file_with_the_kernels_symbols(
    fork: Machine, build: Build, spec: MachineSpec, tmp_path: Path
) -> None:
    if shutil.which("gdb") is None or spec.kernel != build.bzimage:
        pytest.skip("there is no gdb, or no vmlinux of the kernel that runs")
    release = fork.channel("guest").run("uname -r").text
    fork.freeze()
    ram, path = ram_of(fork), tmp_path / "vmcore"
    (info,) = find_vmcoreinfo(ram)
    assert info.release == release
    write_vmcore(ram, registers_of(fork.qmp), path, info)
    asked = ["info threads", "x/s (char *)&linux_banner", "thread 1", "p/x $cs"]
    command = ["gdb", "-nx", "-batch", build.vmlinux, "-c", path, *(f"-ex={each}" for each in asked)]
    shown = subprocess.run(command, capture_output=True, text=True, check=True)
    assert f"Linux version {release}" in shown.stdout, shown.stdout + shown.stderr
    assert len(re.findall(r"^\*? +\d+ +.*(?:LWP|process) \d+", shown.stdout, re.MULTILINE)) == spec.vcpus
    assert re.search(r"= 0x(10|33)$", shown.stdout, re.MULTILINE), "neither kernel's nor user's code"


def test_a_guest_that_reset_leaves_its_memory(fork: Machine) -> None:
    marker = put_marker(fork)
    with pytest.raises(ChannelError, match="the machine"):
        fork.channel("guest").run("reboot -f")
    assert fork.wait_end() is Cause.RESET
    assert [at for at in ram_scan.find(ram_of(fork), marker) if at % PAGE == 0]


def test_of_two_kernels_each_has_its_own_core_file(pair: Pair, tmp_path: Path) -> None:
    machine = pair.lab.machine
    machine.freeze()
    ram = ram_of(machine)
    granted = [pair.instance.ram]
    hosts = find_vmcoreinfo(ram, without(ram.regions, granted))
    spawned = find_vmcoreinfo(ram, granted)
    assert [len(hosts), len(spawned)] == [1, 1]
    if shutil.which("gdb") is None:
        pytest.skip("there is no gdb")
    for kernel, info in ((pair.host, hosts[0]), (pair.spawned, spawned[0])):
        path = tmp_path / kernel.name
        write_vmcore(ram, registers_of(machine.qmp), path, info)
        asked = "-ex=x/s *(char **)&saved_command_line"
        command = [
            "gdb",
            "-nx",
            "-batch",
            pair.lab.build.vmlinux,
            "-c",
            path,
            "-ex=set print elements 0",
            asked,
        ]
        shown = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        assert f"mkh.name={kernel.name} " in shown, shown


def test_another_process_reads_through_the_server(fork: Machine, tmp_path: Path) -> None:
    marker = put_marker(fork)
    ram = ram_of(fork)
    (found,) = [at for at in ram_scan.find(ram, marker) if at % PAGE == 0]
    with RamServer(ram, tmp_path / "ram") as server:
        command = [sys.executable, "-c", CLIENT, server.path, str(found), str(ram.regions[-1].end)]
        told = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split("\n")
        assert told[0] == marker.decode()
        assert told[1] == "True"
        assert told[2].startswith("not in the guest's RAM")
        fork.end()
        with RamClient(server.path) as client, pytest.raises(HarnessError):
            client.read(found, 8)
    with pytest.raises(HarnessError, match="the machine is gone"):
        ram_of(fork)


@pytest.mark.parametrize(("machine_type", "mib"), [("pc,hpet=off", 4096), ("q35", 3072), ("pc", 2048)])
def test_memory_is_where_the_guest_has_it(
    spec: MachineSpec, accel: Accel, machine_type: str, mib: int
) -> None:
    with Machine(replace(spec, machine=machine_type, memory_mib=mib), accel) as machine:
        machine.channel("guest").wait_ready()
        ram = ram_of(machine)
        text = machine.channel("guest").run("cat /proc/iomem").text
        claimed = [re.match(r"(\w+)-(\w+) : System RAM", line) for line in text.split("\n")]
        ends = [int(line[2], 16) + 1 for line in claimed if line]
        # The firmware keeps some of the memory's end for itself.
        assert 0 <= ram.regions[-1].end - ends[-1] <= 1 << 20
        marker = put_marker(machine)
        # The kernel takes high memory first.
        found = [at for at in ram_scan.find(ram, marker) if at % PAGE == 0]
        assert len(found) == 1
        assert (found[0] >= 1 << 32) == (len(ram.regions) > 1)
