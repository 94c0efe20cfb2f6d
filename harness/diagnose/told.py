# SPDX-License-Identifier: MIT
"""What a test's failure is about, as pytest tells it: the claim, the error, whether time ran out."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from harness.diagnose.began import BEGAN, Began
from harness.errors import HarnessError
from harness.recorder import options_of
from harness.report.suite import key_of


@dataclass(frozen=True)
class Told:
    """A failing test. ``waited`` says that what it waited for did not come in time."""

    test: str
    phase: str
    why: str
    claim: str
    source: str
    kernel: str
    options: tuple[str, ...]
    waited: bool
    began: Began

    @property
    def area(self) -> str:
        """The area of the suite that it belongs to."""
        return key_of(self.test).partition("/")[0]


def told_of(item: pytest.Item, phase: str, error: BaseException) -> Told:
    """Return what is known of a failure of ``item``."""
    marker = item.get_closest_marker("claim")
    kernel = item.config.getoption("--bzimage") or item.config.getoption("--kernel")
    return Told(
        item.nodeid,
        phase,
        str(error).strip().partition("\n")[0] or type(error).__name__,
        str(marker.args[0]) if marker else "",
        str(marker.kwargs["source"]) if marker else "",
        str(kernel),
        options_of(item.config),
        out_of_time(error),
        item.stash.get(BEGAN, Began(at=0.0)),
    )


def out_of_time(error: BaseException) -> bool:
    """Say whether an error means that time ran out; those that it was raised from are asked, too."""
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, BaseExceptionGroup):
            return any(map(out_of_time, seen.exceptions))
        if isinstance(seen, HarnessError) and seen.timed_out:
            return True
        # What pytest-timeout raises.
        if isinstance(seen, pytest.fail.Exception) and str(seen).startswith("Timeout"):
            return True
        if isinstance(seen, TimeoutError):
            return True
        seen = seen.__cause__ or seen.__context__
    return False
