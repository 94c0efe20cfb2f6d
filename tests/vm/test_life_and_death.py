# SPDX-License-Identifier: MIT
"""How machines end, why, and that nothing is left of them."""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from harness.errors import HarnessError
from harness.vm import memory
from harness.vm.accel import Accel
from harness.vm.command import ChannelError
from harness.vm.console import Ended, Trouble, printed
from harness.vm.machine import Cause, Machine, MachineSpec, State

HARNESS = """
import pickle, sys, time
from harness.vm.machine import Machine
spec, accel = pickle.load(sys.stdin.buffer)
with Machine(spec, accel) as machine:
    machine.console("guest").expect("Linux version")
    print(machine.pid, flush=True)
    time.sleep(600)
"""


def alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_it_dies_with_the_harness(spec: MachineSpec, accel: Accel, tmp_path: Path, how: int) -> None:
    before = set(Path("/dev/shm").iterdir())
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    with subprocess.Popen(
        [sys.executable, "-c", HARNESS],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env=environment,
    ) as harness:
        assert harness.stdin is not None
        assert harness.stdout is not None
        pickle.dump((spec, accel), harness.stdin)
        harness.stdin.close()
        qemu = int(harness.stdout.readline())
        assert alive(qemu)
        harness.send_signal(how)
        harness.wait()
    limit = time.monotonic() + 10
    # A guard process removes the folder of short-lived files after the harness's end.
    while (alive(qemu) or list(tmp_path.iterdir())) and time.monotonic() < limit:
        time.sleep(0.01)
    assert not alive(qemu)
    assert not list(tmp_path.iterdir())
    assert set(Path("/dev/shm").iterdir()) <= before


def test_nothing_is_left_after_the_block(spec: MachineSpec, accel: Accel) -> None:
    with Machine(spec, accel) as machine:
        machine.console("guest").expect("Linux version")
        pid, open_before = machine.pid, len(list(Path("/proc/self/fd").iterdir()))
    assert not alive(pid)
    assert (machine.state, machine.cause) == (State.GONE, Cause.CLOSED)
    assert len(list(Path("/proc/self/fd").iterdir())) < open_before
    assert "isa-serial" in machine.command_line


@pytest.mark.parametrize(
    ("command", "cause"), [("reboot -f", Cause.RESET), ("poweroff -f", Cause.POWERED_OFF)]
)
def test_a_guest_that_stops_leaves_evidence(machine: Machine, command: str, cause: Cause) -> None:
    with pytest.raises(ChannelError, match="the machine"):
        machine.channel("guest").run(command)
    assert machine.wait_end() is cause
    assert machine.state is State.WRECKED
    assert machine.console("guest").saw("reboot: ")
    assert "RIP=" in machine.qmp.execute("human-monitor-command", command_line="info registers")
    with pytest.raises(Ended):
        machine.console("guest").expect("this never comes")


def test_a_panic_ends_every_wait_at_once(machine: Machine) -> None:
    guest, console = machine.channel("guest"), machine.console("guest")
    with pytest.raises(ChannelError, match="Kernel panic - not syncing: sysrq triggered crash") as caught:
        guest.run("echo c >/proc/sysrq-trigger", timeout=600)
    assert "end Kernel panic" in caught.value.details
    with pytest.raises(Trouble, match="Kernel panic"):
        console.expect("this never comes", timeout=600)
    with pytest.raises(ChannelError, match="Kernel panic"):
        guest.run("true", timeout=600)
    assert machine.state is State.LIVE, "a kernel that panicked is not the whole machine"


@pytest.mark.parametrize(("how", "cause"), [(signal.SIGKILL, Cause.LOST), (signal.SIGSEGV, Cause.CRASHED)])
def test_a_qemu_that_ends_by_itself(machine: Machine, how: int, cause: Cause) -> None:
    os.kill(machine.pid, how)
    with pytest.raises(HarnessError, match=cause.value):
        machine.console("guest").expect("this never comes", timeout=600)
    assert machine.wait_end() is cause
    assert machine.state is State.GONE


def test_memory_on_disk_where_shm_is_tiny(
    spec: MachineSpec, accel: Accel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = memory.room
    monkeypatch.setattr(memory, "room", lambda folder: 64 << 20 if folder == memory.SHM else real(folder))
    with Machine(replace(spec, memory_mib=128), accel, ram_folders=(memory.SHM, tmp_path)) as machine:
        assert machine.console("guest").expect(printed("mkh: user space is up"))
        assert Path(f"/proc/self/fd/{machine.ram.fileno()}").readlink().is_relative_to(tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_wrong_machine_says_what_qemu_says(spec: MachineSpec, accel: Accel) -> None:
    with (
        pytest.raises(HarnessError, match="unable to find CPU model 'nonsense'"),
        Machine(replace(spec, cpu="nonsense"), accel),
    ):
        pass
