# SPDX-License-Identifier: MIT
"""A machine that does not come up: every reason gets an error that says what to do."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from harness.definition import SerialLine
from harness.errors import HarnessError, UsageError
from harness.vm import memory
from harness.vm.accel import Accel
from harness.vm.machine import Machine, MachineSpec, State
from harness.vm.memory import open_ram

TCG = Accel("tcg", "tcg,thread=multi", "", 1.0)
LINES = (SerialLine("host", 2, 4), SerialLine("host.agent", 3, 3))


@pytest.fixture
def spec(tmp_path: Path) -> MachineSpec:
    kernel = tmp_path / "bzImage"
    kernel.write_bytes(b"")
    return MachineSpec(kernel, None, "console=ttyS2", 2, 64, "pc", "qemu64", LINES)


def qemu_that(tmp_path: Path, *does: str) -> str:
    script = tmp_path / "qemu"
    script.write_text("\n".join(("#!/bin/sh", *does)))
    script.chmod(0o755)
    return str(script)


def test_no_qemu(spec: MachineSpec) -> None:
    with (
        pytest.raises(HarnessError, match="apt-get install qemu-system-x86"),
        Machine(spec, TCG, qemu="qemu-system-that-is-missing"),
    ):
        pass


def test_a_qemu_that_dies_at_once(spec: MachineSpec, tmp_path: Path) -> None:
    machine = Machine(spec, TCG, qemu=qemu_that(tmp_path, "echo 'no such CPU' >&2", "exit 3"))
    with pytest.raises(HarnessError) as caught, machine:
        pass
    assert "ended at once with status 3" in str(caught.value)
    assert "no such CPU" in str(caught.value)
    assert "isa-serial,chardev=port2,index=2,iobase=0x3e8,irq=4" in str(caught.value)
    assert machine.state is State.GONE
    assert machine.stderr == "no such CPU"


def test_a_kernel_that_is_missing(spec: MachineSpec, tmp_path: Path) -> None:
    absent = replace(spec, kernel=tmp_path / "absent")
    with (
        pytest.raises(UsageError, match="absent to boot"),
        Machine(absent, TCG, qemu=qemu_that(tmp_path)),
    ):
        pass


def test_no_such_line(spec: MachineSpec) -> None:
    machine = Machine(spec, TCG)
    with pytest.raises(UsageError, match="no console for kernel 'beta'"):
        machine.console("beta")


def test_a_small_shm_gives_way_to_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shm, disk = tmp_path / "shm", tmp_path / "disk"
    monkeypatch.setattr(memory, "room", lambda folder: (64 << 20) if folder == shm else (1 << 40))
    with open_ram(256 << 20, (shm, disk)) as ram:
        assert Path(f"/proc/self/fd/{ram.fileno()}").readlink().is_relative_to(disk)
        assert ram.seek(0, 2) == 256 << 20
        assert not list(disk.iterdir()), "the file has a name that somebody must remove"


def test_no_room_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "room", lambda folder: 64 << 20)
    with pytest.raises(HarnessError) as caught:
        open_ram(2 << 30, (tmp_path / "shm", tmp_path / "disk"))
    assert "no room for 2048 MiB of guest memory" in str(caught.value)
    assert f"{tmp_path}/disk: 64 MiB free" in str(caught.value)
    assert "MKHARNESS_CACHE" in caught.value.advice
