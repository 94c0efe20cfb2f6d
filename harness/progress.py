# SPDX-License-Identifier: MIT
"""Showing a person what goes on: every step with its elapsed time.

On a terminal the running step is one live line; in a log (CI, a file) a step prints its start,
what it is at every 15 seconds, and its end.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.markup import escape
from rich.status import Status

LOG_WIDTH = 150
"""Columns of a log."""

LOG_INTERVAL = 15.0
"""Seconds between two lines about the same step in a log."""

LIVE = "MKHARNESS_LIVE"
"""Set where another process shows what goes on, see harness.live: then nothing is printed here."""


class Step:
    """One running step; ``update`` says what it is at."""

    def __init__(self, title: str, console: Console, status: Status | None) -> None:
        self.title = title
        self.started = time.monotonic()
        self.result = ""
        self.doing = ""
        self._console = console
        self._status = status
        self._logged = self.started

    @property
    def elapsed(self) -> float:
        """Seconds since the step began."""
        return time.monotonic() - self.started

    def update(self, doing: str) -> None:
        """Show what the step is at now. Cheap; call it as often as there is news."""
        self.doing = doing
        line = f"{escape(self.title)}: {escape(doing)} [dim]({self.elapsed:.0f} s)[/dim]"
        if self._status is not None:
            self._status.update(line)
        elif time.monotonic() - self._logged >= LOG_INTERVAL:
            self._logged = time.monotonic()
            self._console.print("  " + line)

    def done(self, result: str) -> None:
        """Set what the step's last line says beside its title ("reused", "1,180 objects")."""
        self.result = result


class Progress:
    """Prints steps to standard error, so that standard output stays for results."""

    def __init__(self, console: Console | None = None) -> None:
        # A log has no width; 80 columns would be too few for consoles side by side.
        width = None if sys.stderr.isatty() or "COLUMNS" in os.environ else LOG_WIDTH
        shown = Console(file=sys.stderr, highlight=False, width=width, quiet=LIVE in os.environ)
        self.console = console or shown

    @staticmethod
    def quiet_console() -> Console:
        """Return a console that shows nothing, for work that is done many times over."""
        return Console(quiet=True)

    @contextmanager
    def step(self, title: str) -> Iterator[Step]:
        """Run one step: shown while it runs, and with its time and outcome when it ends.

        Steps may nest; an inner step then prints its lines above the outer one's.
        """
        live = self.console.is_terminal
        # rich allows one live display; a nested step prints plain lines instead.
        status = self.console.status(escape(title)) if live and not _running else None
        step = Step(title, self.console, status)
        if status is None:
            self.console.print(f"[dim]...[/dim] {escape(title)}")
        else:
            status.start()
        _running.append(step)
        mark = "[red]failed[/red]"
        try:
            yield step
            mark = "[green]done[/green]"
        finally:
            _running.remove(step)
            if status is not None:
                status.stop()
            result = f": {escape(step.result)}" if step.result else ""
            self.console.print(f"{mark} {escape(step.title)}{result} [dim]({step.elapsed:.1f} s)[/dim]")


_running: list[Step] = []


def doing() -> str:
    """Return what this process is at, in a line; empty where no step runs."""
    if not _running:
        return ""
    step = _running[-1]
    return f"{step.title}: {step.doing}" if step.doing else step.title
