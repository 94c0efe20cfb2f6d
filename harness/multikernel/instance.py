# SPDX-License-Identifier: MIT
"""What was granted to a spawned kernel, as the host kernel records it."""

from __future__ import annotations

from dataclasses import dataclass

from harness.definition import SpawnedKernel
from harness.model import FixedArea, Region


@dataclass(frozen=True)
class Instance:
    """One granted instance: its id and name, local APIC ids of its CPUs, its RAM.

    ``fixed`` is memory outside the grant that it sees as RAM by design.
    """

    spawned: SpawnedKernel
    apic_ids: tuple[int, ...]
    ram: Region
    fixed: tuple[FixedArea, ...] = ()

    @property
    def id(self) -> int:
        """The instance's number; 0 is the host."""
        return self.spawned.id

    @property
    def name(self) -> str:
        """The spawned kernel's name."""
        return self.spawned.name
