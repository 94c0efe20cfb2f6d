# SPDX-License-Identifier: MIT
"""Errors that a person can act on: one sentence for what happened, one for what to do next."""

from __future__ import annotations


class HarnessError(Exception):
    """Something failed and the harness cannot go on.

    ``what`` says what happened and names the file, command or kernel; ``advice`` says what to do
    next; ``details`` holds evidence (the end of a log, a hunk), shown below both. ``timed_out`` says that
    something did not come in time.
    """

    exit_status = 1
    timed_out = False

    def __init__(
        self, what: str, *, advice: str = "", details: str = "", timed_out: bool | None = None
    ) -> None:
        super().__init__(what)
        if timed_out is not None:
            self.timed_out = timed_out
        self.what = what
        self.advice = advice
        self.details = details

    def __str__(self) -> str:
        parts = [self.what]
        if self.details:
            parts.append(self.details.rstrip())
        if self.advice:
            parts.append(f"What to do: {self.advice}")
        return "\n".join(parts)


class UsageError(HarnessError):
    """What was asked for makes no sense: a bad option, a broken definition, a missing file."""

    exit_status = 2
