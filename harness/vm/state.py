# SPDX-License-Identifier: MIT
"""What a machine can be in, and what can end it."""

from __future__ import annotations

from enum import Enum


class State(Enum):
    """Live: the guest runs. Frozen: the harness stopped it. Wrecked: it stopped for good, its
    memory and registers kept as evidence. Gone: there is no QEMU (any more)."""

    LIVE = "live"
    FROZEN = "frozen"
    WRECKED = "wrecked"
    GONE = "gone"


class Cause(Enum):
    """Why a machine is wrecked or gone."""

    POWERED_OFF = "the guest powered the machine off"
    RESET = "the machine was reset (a reboot, or a triple fault)"
    PANIC = "the guest reported a panic"
    CRASHED = "QEMU crashed"
    LOST = "QEMU was killed from outside"
    TIMED_OUT = "the harness ended it after a time-out"
    CLOSED = "the harness ended it"


REASONS = {"guest-shutdown": Cause.POWERED_OFF, "guest-reset": Cause.RESET, "guest-panic": Cause.PANIC}
"""The reasons of QEMU's SHUTDOWN event that mean that the guest has stopped by itself."""
