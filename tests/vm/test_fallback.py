# SPDX-License-Identifier: MIT
"""A KVM that makes QEMU die at once: the machine comes up under TCG, and says so."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from harness.errors import HarnessError
from harness.vm import machine as machines
from harness.vm.accel import Accel
from harness.vm.machine import QEMU, Machine, MachineSpec, State

KVM = Accel("kvm", "kvm", "made by hand", 1.0)


@pytest.fixture(autouse=True)
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let QEMU die late: on a busy computer a shell alone takes a second."""
    monkeypatch.setattr(machines, "EARLY", 20.0)


def qemu_without_kvm(folder: Path, otherwise: str) -> str:
    """Write a QEMU that does ``otherwise`` under KVM, and counts its starts."""
    script = folder / "qemu"
    script.write_text(
        f"#!/bin/sh\necho >>{folder}/starts\n"
        f'case "$*" in *"-accel kvm"*) {otherwise} ;; esac\nexec {shutil.which(QEMU)} "$@"\n'
    )
    script.chmod(0o755)
    return str(script)


def starts(folder: Path) -> int:
    return len((folder / "starts").read_text().splitlines())


def test_it_goes_on_under_tcg(spec: MachineSpec, tmp_path: Path) -> None:
    qemu = qemu_without_kvm(tmp_path, "echo 'no such MSR' >&2; exit 1")
    with Machine(spec, KVM, qemu=qemu) as machine:
        machine.channel("guest").wait_ready(120)
        assert machine.channel("guest").run("echo alive").check().text == "alive"
        assert machine.accel.name == "tcg"
        assert machine.fell_back is not None
        assert "no such MSR" in machine.fell_back
        assert "-accel tcg" in machine.command_line
        assert (machine.state, machine.cause) == (State.LIVE, None)
    assert starts(tmp_path) == 2


def test_it_goes_on_when_qemu_dies_after_its_greeting(spec: MachineSpec, tmp_path: Path) -> None:
    # The kernel prints nothing without its command line, so that there is no sign of life.
    silent = "$(echo \"$*\" | sed 's/-append.*//; s/-accel kvm/-accel tcg/')"
    tcg = f"{shutil.which(QEMU)} {silent} & sleep 0.4; kill -9 $!; exit 1"
    with Machine(spec, KVM, qemu=qemu_without_kvm(tmp_path, tcg)) as machine:
        machine.channel("guest").wait_ready(120)
        assert machine.accel.name == "tcg"
        assert (machine.state, machine.cause) == (State.LIVE, None)
    assert starts(tmp_path) == 2


def test_it_is_tried_once(spec: MachineSpec, tmp_path: Path) -> None:
    qemu = qemu_without_kvm(tmp_path, "exit 1")
    Path(qemu).write_text(Path(qemu).read_text().replace("exec ", "exit 2 # "))
    with pytest.raises(HarnessError, match="ended at once with status 2"), Machine(spec, KVM, qemu=qemu):
        pass
    assert starts(tmp_path) == 2


def test_a_qemu_that_runs_is_left_alone(spec: MachineSpec, accel: Accel, tmp_path: Path) -> None:
    qemu = qemu_without_kvm(tmp_path, "exit 1")
    with Machine(spec, accel, qemu=qemu) as machine:
        machine.console("guest").expect("Linux version")
        assert machine.fell_back is None
    assert starts(tmp_path) == 1
