# SPDX-License-Identifier: MIT
"""Questions about the machine asked in the background: a map of its memory takes a moment."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from harness.errors import HarnessError
from harness.tui.source import Question, Source


class Asker:
    """Asks ``source``, one question after another; only the last one's answer is wanted.

    ``wake`` is called, in a thread of its own, when an answer is there.
    """

    def __init__(self, source: Source, wake: Callable[[], None]) -> None:
        self._source = source
        self._wake = wake
        self._pool = ThreadPoolExecutor(1, "questions")
        self._number = itertools.count(1)
        self._last = 0
        self._answer: tuple[int, str] = (0, "")
        self.pending = False

    def ask(self, question: Question, argument: str = "") -> None:
        """Ask; an answer that has not come yet is not waited for any more."""
        self._last = next(self._number)
        self.pending = True
        self._pool.submit(self._ask, self._last, question, argument)

    def forget(self) -> None:
        """Wait for no answer."""
        self._last, self.pending = 0, False

    def take(self) -> str | None:
        """Return the answer to the last question, once."""
        number, answer = self._answer
        if not self.pending or number != self._last:
            return None
        self.pending = False
        return answer

    def close(self) -> None:
        """Answer no more."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _ask(self, number: int, question: Question, argument: str) -> None:
        if number != self._last:
            return
        try:
            answer = self._source.ask(question, argument)
        except HarnessError as error:
            answer = f"error: {error}"
        self._answer = (number, answer)
        self._wake()
