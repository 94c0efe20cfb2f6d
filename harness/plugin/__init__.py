# SPDX-License-Identifier: MIT
"""mkharness in pytest: options, fixtures, the ``claim`` and ``needs`` markers.

Tests import ``Seen``, ``claim``, ``watched``, ``counted`` and ``steps_shown`` from here; pytest finds its
hooks and the fixtures here by their names. A plugin is loaded by every pytest run: the modules import the
rest of the harness where they use it.
"""

# ruff: noqa: F401 - they are there for others.

from harness.plugin.claims import Seen, claim, pytest_collection_modifyitems, seen
from harness.plugin.explaining import pytest_runtest_makereport, pytest_runtest_protocol
from harness.plugin.fixtures import _needs, build, capabilities, forks, lab, mk, pair, payload, steps_shown
from harness.plugin.options import pytest_addoption
from harness.plugin.run import (
    pytest_configure,
    pytest_configure_node,
    pytest_keyboard_interrupt,
    pytest_terminal_summary,
)
from harness.plugin.watching import counted, watched
