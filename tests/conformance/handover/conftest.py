# SPDX-License-Identifier: MIT
"""What claims on live updates start from."""

from __future__ import annotations

import pytest

from harness.lab import Lab
from harness.multikernel.handover import LiveUpdate, opened


@pytest.fixture
def luo(lab: Lab) -> LiveUpdate:
    """The Live Update Orchestrator of ``lab``'s host kernel, its device open."""
    return opened(lab.host)
