# SPDX-License-Identifier: MIT
"""Machines for tests that need QEMU and no multikernel: any kernel will do.

It is the kernel under test, or the one that $MKHARNESS_VM_KERNEL and $MKHARNESS_VM_INITRD name.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from interruptible import interruptible
from tmux import Tmux

from harness.definition import SerialLine
from harness.vm.accel import Accel, choose
from harness.vm.machine import Machine, MachineSpec

interruptible()


@pytest.fixture(scope="session")
def accel(request: pytest.FixtureRequest) -> Accel:
    return choose(request.config.getoption("--accel"))


@pytest.fixture(scope="session")
def spec(request: pytest.FixtureRequest) -> MachineSpec:
    if "MKHARNESS_VM_KERNEL" in os.environ:
        kernel, initrd = (Path(os.environ[f"MKHARNESS_VM_{name}"]) for name in ("KERNEL", "INITRD"))
    else:
        build = request.getfixturevalue("build")
        kernel, initrd = build.bzimage, build.host_initrd
    return MachineSpec(
        kernel=kernel,
        initrd=initrd,
        cmdline="console=ttyS2,115200 mkh.name=guest mkh.console=ttyS2 mkh.agent=ttyS3 panic=0",
        vcpus=2,
        memory_mib=512,
        machine="pc,hpet=off",
        cpu="qemu64",
        serial=(SerialLine("guest", 2, 4), SerialLine("guest.agent", 3, 3)),
    )


@pytest.fixture(scope="session")
def shared(spec: MachineSpec, accel: Accel) -> Iterator[Machine]:
    """A machine that is up and that no test may wreck."""
    with Machine(spec, accel) as running:
        running.channel("guest").wait_ready()
        yield running


@pytest.fixture
def machine(spec: MachineSpec, accel: Accel) -> Iterator[Machine]:
    """A machine of the test's own, up, to do with as it likes."""
    with Machine(spec, accel) as running:
        running.channel("guest").wait_ready()
        yield running


@pytest.fixture
def tmux(tmp_path: Path) -> Iterator[Tmux]:
    """A terminal of the test's own, with a shell."""
    if shutil.which("tmux") is None:
        pytest.skip("tmux is not installed")
    terminal = Tmux(tmp_path)
    try:
        yield terminal
    finally:
        terminal.run("kill-server")
