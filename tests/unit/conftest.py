# SPDX-License-Identifier: MIT
"""No example of a property has a time limit of its own: a busy computer is no bug."""

from __future__ import annotations

from hypothesis import settings
from interruptible import interruptible

settings.register_profile("patient", deadline=None)
settings.load_profile("patient")
interruptible()
