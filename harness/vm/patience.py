# SPDX-License-Identifier: MIT
"""Waiting with a limit: said at half of it, so that nobody sits before a screen that says nothing."""

from __future__ import annotations

import time
from collections.abc import Callable

SHORT = 8.0
"""Seconds: of a shorter wait nothing is said before its end."""
LISTENERS: list[Callable[[str], None]] = []
"""Called with a line when half of a wait's time is over, in the thread that waits."""


class Patience:
    """A wait for ``what``, of ``seconds`` on this computer; ``last`` tells how far things are."""

    def __init__(self, seconds: float, what: str, last: Callable[[], str] = str) -> None:
        self._began = time.monotonic()
        self._seconds = seconds
        self._what = what
        self._last = last
        self._said = seconds < SHORT

    @property
    def left(self) -> float:
        """Seconds until the end, or until something is to be said: 0 or less when ``over`` is to be asked."""
        left = self._began + self._seconds - time.monotonic()
        return left if self._said else left - self._seconds / 2

    def over(self) -> bool:
        """Return whether the time is over; at half of it, say so once."""
        passed = time.monotonic() - self._began
        if not self._said and passed >= self._seconds / 2:
            self._said = True
            tell(f"still waiting for {self._what} after {passed:.0f} of {self._seconds:.0f} s{self._tail()}")
        return passed > self._seconds

    def _tail(self) -> str:
        last = self._last()
        return f"; {last}" if last else ""


def tell(line: str) -> None:
    """Tell all listeners a line."""
    for listener in LISTENERS:
        listener(line)
