# SPDX-License-Identifier: MIT
"""Experiments of the isolation report say what is so: some that go through, and one that cannot."""

from __future__ import annotations

import pytest

from harness.forks import Forks
from harness.isolation import experiments, experiments_devices
from harness.isolation.attack import staged
from harness.progress import Progress


@pytest.mark.needs("spawn")
def test_some(forks: Forks) -> None:
    with staged(forks, "spawned -> host", Progress(Progress.quiet_console())) as scene:
        for through in (
            experiments.read_ram,
            experiments.write_ram,
            experiments.ipi,
            experiments_devices.pci,
        ):
            outcome = through(scene)
            assert outcome.through, outcome.evidence
        assert not experiments.msr(scene).through


@pytest.mark.needs("spawn")
def test_from_the_host(forks: Forks) -> None:
    with staged(forks, "host -> spawned", Progress(Progress.quiet_console())) as scene:
        for through in (
            experiments.read_ram,
            experiments.write_text,
            experiments.nmi,
            experiments_devices.serial,
        ):
            outcome = through(scene)
            assert outcome.through, outcome.evidence
        assert not experiments.msr(scene).through
