# SPDX-License-Identifier: MIT
"""Where the plugin keeps what belongs to a run or a test, in pytest's stashes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from harness.coverage import Collector
    from harness.diagnose.explain import Explanation
    from harness.lab import Lab

READY_LAB: pytest.StashKey[Lab] = pytest.StashKey()
"""Where `mkh demo` puts a lab that already runs."""
LAB: pytest.StashKey[Lab] = pytest.StashKey()
"""A test's machine."""
MAPPED = pytest.StashKey[bool]()
"""There is a picture of a machine's memory with two kernels, for the report."""
EXPLAINED: pytest.StashKey[Explanation] = pytest.StashKey()
"""What a test's failure was explained with."""
ITEM = pytest.StashKey[pytest.Item]()
"""The test that runs."""
COLLECTOR: pytest.StashKey[Collector] = pytest.StashKey()
"""Counts which lines of the series are executed."""
