# SPDX-License-Identifier: MIT
"""When a test got its machine: light, since every test with a machine says so."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field

import pytest


@dataclass(frozen=True)
class Began:
    """When a test got its machine (monotonic seconds), and how far its consoles were then."""

    marks: Mapping[str, int] = field(default_factory=dict)
    at: float = field(default_factory=time.monotonic)


BEGAN = pytest.StashKey[Began]()
