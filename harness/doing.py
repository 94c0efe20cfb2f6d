# SPDX-License-Identifier: MIT
"""What each process of a run does now, told to the one that shows it: harness.live.

A process that runs tests writes a small file twice a second into the folder that $MKHARNESS_LIVE
names: which test, at what step, and the last line of each kernel's console.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Generator
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec
import pytest

from harness import progress
from harness.plugin.stash import LAB
from harness.report.columns import printable
from harness.vm.machine import Machine

VARIABLE = progress.LIVE
INTERVAL = 0.5
"""Seconds between two looks."""
WIDTH = 200
"""Characters of a console's line."""
SUFFIX = ".now"


class Doing(msgspec.Struct, frozen=True):
    """What a process does: its ``test`` (node id), ``step`` of the harness, last lines by kernel."""

    test: str
    step: str = ""
    kernels: dict[str, str] = {}


class Teller:
    """Writes what this process does, as long as pytest runs."""

    def __init__(self, folder: Path) -> None:
        self._file = folder / f"{os.getpid()}{SUFFIX}"
        self._item: pytest.Item | None = None
        self._over = threading.Event()

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Generator[None, Any, Any]:
        """Note which test runs."""
        self._item = item
        try:
            return (yield)
        finally:
            self._item = None

    def pytest_sessionstart(self) -> None:
        """Begin to tell."""
        threading.Thread(target=self._run, name="tell what goes on", daemon=True).start()

    def pytest_sessionfinish(self) -> None:
        """Tell no more."""
        self._over.set()

    def _run(self) -> None:
        while not self._over.wait(INTERVAL):
            # The folder is gone when nobody looks any more.
            with suppress(OSError):
                self.tell()

    def tell(self) -> None:
        """Write once. Raises OSError."""
        item = self._item
        doing = Doing(item.nodeid if item else "", progress.doing(), _kernels(item))
        new = self._file.with_suffix(".new")
        new.write_bytes(msgspec.json.encode(doing))
        new.rename(self._file)


def _kernels(item: pytest.Item | None) -> dict[str, str]:
    lab = item.stash.get(LAB, None) if item else None
    return last_lines(lab.machine) if lab else {}


def last_lines(machine: Machine) -> dict[str, str]:
    """Return the last line that each kernel of a machine has printed."""
    found = {}
    for name, console in machine.consoles.items():
        # The last one is often empty.
        texts = [printable(line.text).strip() for line in console.last(2)[0]]
        found[name] = next((text[:WIDTH] for text in reversed(texts) if text), "")
    return found


def read(folder: Path) -> list[Doing]:
    """Return what all processes do."""
    found = []
    for file in sorted(folder.glob(f"*{SUFFIX}")):
        with suppress(OSError, msgspec.MsgspecError):
            found.append(msgspec.json.decode(file.read_bytes(), type=Doing))
    return found
