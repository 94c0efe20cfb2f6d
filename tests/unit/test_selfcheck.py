# SPDX-License-Identifier: MIT
"""What a run of the suite says of a seeded fault: which case failed first, and why."""

import pytest

from harness.report import selfcheck as report
from harness.selfcheck import Verdict, failures

pytest_plugins = "pytester"

TESTS = """
import pytest

def test_good():
    pass

@pytest.mark.parametrize("case", ["one [1]"])
def test_bad(case):
    assert 1 == 2, "page 0x1000 is not scrubbed"

@pytest.fixture
def broken():
    yield
    raise RuntimeError("it ended")

def test_bad_at_the_end(broken):
    pass
"""


def test_failures_are_read_with_their_text(pytester: pytest.Pytester) -> None:
    folder = pytester.path / "tests" / "conformance" / "memory"
    folder.mkdir(parents=True)
    (folder / "test_it.py").write_text(TESTS)
    pytester.runpytest_subprocess("--junitxml", "out.xml", "tests/conformance/memory")
    found = failures(pytester.path / "out.xml")
    assert [failure.case for failure in found] == [
        "memory/test_it.py::test_bad[one [1]]",
        "memory/test_it.py::test_bad_at_the_end",
    ]
    assert found[0].message == "AssertionError: page 0x1000 is not scrubbed"
    assert "it ended" in found[1].text


def test_verdicts_are_counted() -> None:
    right = Verdict(fault="a", expected=("memory",), caught_by="memory/test_a.py::test_a", points=True)
    wrong = Verdict(fault="b", expected=("memory",), caught_by="files/test_b.py::test_b", points=False)
    missed = Verdict(fault="c", expected=("memory",), tried=("memory",))
    unknown = Verdict(fault="d", caught_by="files/test_b.py::test_b")
    told = report.as_values([right, wrong, missed, unknown])
    counts = {key: told[key] for key in ("faults", "caught", "right_area", "points_at_cause")}
    assert counts == {"faults": 4, "caught": 3, "right_area": 1, "points_at_cause": 1}
    assert told["each"]["c"]["caught_by"] is None
    assert told["each"]["b"]["area"] == "files"
