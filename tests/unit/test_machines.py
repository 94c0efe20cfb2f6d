# SPDX-License-Identifier: MIT
"""How many machines were booted and forked is told, in one process and in several."""

import pytest

pytest_plugins = "pytester"

TEXT = """
from types import SimpleNamespace
import pytest

@pytest.fixture(scope="session")
def build():
    return SimpleNamespace(definition=SimpleNamespace(topology="pair"))

@pytest.mark.parametrize("number", range(4))
def test_machines(forks, number):
    forks.booted += 1
    forks.forked += 10
    forks.failed += FAILED
"""


@pytest.mark.parametrize("workers", [(), ("-n", "2")], ids=["alone", "workers"])
@pytest.mark.parametrize(("failed", "ci", "status"), [(1, "true", 1), (1, "", 0)])
def test_machines_are_counted_and_no_failed_fork_is_forgiven_in_ci(
    pytester: pytest.Pytester,
    monkeypatch: pytest.MonkeyPatch,
    workers: tuple[str, ...],
    failed: int,
    ci: str,
    status: int,
) -> None:
    monkeypatch.setenv("CI", ci)
    pytester.makepyfile(test_it=TEXT.replace("FAILED", str(failed)))
    result = pytester.runpytest_subprocess("--accel", "tcg", *workers)
    result.stdout.fnmatch_lines(
        [f"machines: 4 booted, 40 forked, {4 * failed} forks failed to resume"], consecutive=True
    )
    assert result.ret == status
    assert ("no success: in CI" in result.stdout.str()) is bool(status)


def test_a_run_without_machines_says_nothing(pytester: pytest.Pytester) -> None:
    pytester.makepyfile("def test_nothing(): pass")
    result = pytester.runpytest_subprocess("-n", "2")
    assert (result.ret, "machines:" in result.stdout.str()) == (0, False)
