# SPDX-License-Identifier: MIT
"""A machine that ends because of an error is looked at, unless that only told what a kernel can do."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from harness import capabilities, lab
from harness.capabilities import Capability
from harness.errors import HarnessError
from harness.forks import Forks
from harness.lab import Lab
from harness.progress import Progress


@pytest.fixture
def looked_at(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    found: list[str] = []

    def look(machine: Lab, error: HarnessError) -> None:
        found.append(error.what)

    monkeypatch.setattr(lab, "FAILING", [look])
    return found


def stumbling(forks: Forks, progress: Progress) -> str:
    with forks.lab("booted", progress) as machine:
        return machine.host.run("false")


def test_failure_of_a_stage_is_looked_at(forks: Forks, looked_at: list[str]) -> None:
    with pytest.raises(HarnessError):
        stumbling(forks, Progress())
    assert len(looked_at) == 1


def test_attempt_that_fails_is_not(
    forks: Forks, looked_at: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was told as the reason of the next failure, of a test on another machine."""
    attempts: Mapping[str, Capability] = {"nothing": Capability("nothing", "what none has", stumbling)}
    monkeypatch.setattr(capabilities, "CAPABILITIES", attempts)
    found = capabilities._try_all(forks, Progress())
    assert not found["nothing"].present
    assert looked_at == []


def test_attempt_that_held_the_second_time_says_so(forks: Forks, monkeypatch: pytest.MonkeyPatch) -> None:
    """A retry is never silently green."""
    tries: list[str] = []

    def attempt(forks: Forks, progress: Progress) -> str:
        tries.append("one")
        return stumbling(forks, progress) if len(tries) == 1 else "it works"

    monkeypatch.setattr(
        capabilities, "CAPABILITIES", {"spawn": Capability("spawn", "what all have", attempt)}
    )
    found = capabilities._try_all(forks, Progress())["spawn"]
    assert found.present
    assert "it works (unstable: failed at first: " in found.evidence
