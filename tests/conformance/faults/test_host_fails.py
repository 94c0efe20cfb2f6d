# SPDX-License-Identifier: MIT
"""The host fails in every way that there is: the kernels that it has spawned live on without it."""

from __future__ import annotations

import numpy as np
import pytest

from harness.faults import FAULTS
from harness.plugin import claim
from harness.scene import Scene
from harness.vm.ram import ram_of

pytestmark = pytest.mark.needs("spawn")

WAYS = (
    "NULL in an interrupt",
    "BUG in an interrupt",
    "stack overflow",
    "panic",
    "interrupts off",
    "interrupts off on every CPU",
    "NMI, panic",
    "machine check",
    "every CPU stands still",
    "flipped bit",
)

ways = pytest.mark.parametrize(
    "what", [pytest.param(name, marks=pytest.mark.needs(*FAULTS[name].needs)) for name in WAYS]
)


@claim(
    "{what} in the host: those that it spawned keep beats, memory, clocks, interrupts and lines",
    source="RFC v1 0/7: fault isolation between kernels; interface sheet FI-P4, FI-N4, FI-N5",
)
@pytest.mark.trespass("there is no host any more to ask what is whose")
@ways
def test_spawned_live(scene: Scene, what: str) -> None:
    ram, canaries = ram_of(scene.lab.machine), scene.lab.canaries[scene.pair.spawned.name]
    scene.fail(scene.host, what, FAULTS[what])
    assert canaries.size
    assert not np.intersect1d(ram.written(), canaries).size, (
        "memory of its own that nobody should write was written"
    )
