# SPDX-License-Identifier: MIT
"""What becomes of claims is counted so that nothing is hidden, in one process and in several."""

import msgspec
import pytest

from harness import paths, testing
from harness.errors import UsageError
from harness.report import compare, suite
from harness.report.suite import Claim, Suite, Summary

pytest_plugins = "pytester"

AREA = "tests/conformance/loading"
PASSES = """
from harness.plugin import claim

@claim("it passes", source="a post")
def test_passes(seen):
    seen("what it saw")
"""


def run(pytester: pytest.Pytester, text: str, *options: str) -> tuple[pytest.RunResult, Summary]:
    folder = pytester.path / AREA
    folder.mkdir(parents=True)
    (folder / "test_it.py").write_text(text)
    (pytester.path / "pytest.ini").write_text("[pytest]\n")
    result = pytester.runpytest_subprocess("--claims", "claims.json", *options, "tests")
    return result, msgspec.json.decode((pytester.path / "claims.json").read_bytes(), type=Summary)


def counts(summary: Summary) -> dict[str, int]:
    names = ("claims", "passed", "failed", "known", "skipped", "not_run")
    return {name: getattr(summary, name) for name in names if getattr(summary, name)}


@pytest.mark.parametrize("workers", [(), ("-n", "2")], ids=["alone", "workers"])
def test_every_way_to_end_is_counted(pytester: pytest.Pytester, workers: tuple[str, ...]) -> None:
    text = (
        PASSES
        + """
import pytest

@claim("it fails", source="a post")
def test_fails():
    assert 1 == 2

@claim("its machine breaks after it passed", source="a post")
def test_fails_at_the_end(broken):
    pass

@pytest.fixture
def broken():
    yield
    assert 3 == 4

@claim("it is skipped", source="a post")
@pytest.mark.parametrize("case", [1, 2])
def test_skipped(case):
    pytest.skip("no such thing")

@claim("it is one claim with three cases", source="a post")
@pytest.mark.parametrize("case", [1, 2, 3])
def test_cases(case):
    assert case != 2

@claim("it fails as known", source="a post")
@pytest.mark.xfail(reason="V9-99: it is so", strict=True)
def test_known():
    assert 5 == 6
"""
    )
    result, summary = run(pytester, text, *workers)
    assert result.ret == 1
    assert counts(summary) == {"claims": 6, "passed": 1, "failed": 3, "known": 1, "skipped": 1}
    assert counts(summary.areas["loading"]) == counts(summary)
    assert "assert 1 == 2" in summary.failures["loading/test_it.py::test_fails"]


@pytest.mark.parametrize("workers", [(), ("-n", "2")], ids=["alone", "workers"])
def test_a_run_that_was_cut_short_is_no_success(pytester: pytest.Pytester, workers: tuple[str, ...]) -> None:
    text = PASSES + "import pytest\n@claim('cut', source='')\ndef test_cut():\n    pytest.exit('now', 0)\n"
    text += "@claim('late', source='')\ndef test_late():\n    pass\n"
    result, summary = run(pytester, text, *workers)
    assert result.ret != 0
    assert summary.not_run > 0
    assert summary.claims == 3


KNOWN = """
from harness import known
from harness.build import series
from harness.definition import load_definition

this = series.read(load_definition("reference").series).digest
bugs = [known.Bug(f"loading/test_it.py::test_{name}", "V9-99", "it is so") for name in NAMES]
known.read = lambda definition: known.Known((SERIES,), tuple(bugs))
"""
TEAR_DOWN = """
import pytest
from harness.errors import HarnessError
from harness.plugin import claim

@pytest.fixture
def broken():
    yield
    raise HarnessError("the machine ended")

@pytest.fixture
def untidy():
    yield
    assert "something" == "nothing", "it left something behind"

@claim("its machine breaks after it passed", source="a post")
def test_late(broken):
    pass

@claim("more than that breaks", source="a post")
def test_twice(broken, untidy):
    pass

@claim("it ends with a mistake of its own", source="a post")
def test_mistake():
    [][1]
"""


@pytest.mark.parametrize("workers", [(), ("-n", "2")], ids=["alone", "workers"])
def test_a_failure_at_the_end_may_be_known_and_a_mistake_of_the_test_is_not(
    pytester: pytest.Pytester, workers: tuple[str, ...]
) -> None:
    pytester.makeconftest(KNOWN.replace("NAMES", "('late', 'twice', 'mistake')").replace("SERIES", "this"))
    result, summary = run(pytester, TEAR_DOWN, *workers)
    assert result.ret == 1
    assert counts(summary) == {"claims": 3, "failed": 1, "known": 2}
    assert "IndexError" in summary.failures["loading/test_it.py::test_mistake"]


@pytest.mark.parametrize("workers", [(), ("-n", "2")], ids=["alone", "workers"])
@pytest.mark.parametrize(("series", "outcome"), [("this", "failed"), ("'a re-roll'", "passed")])
def test_a_known_bug_that_is_gone_is_a_failure_for_its_own_series_alone(
    pytester: pytest.Pytester, workers: tuple[str, ...], series: str, outcome: str
) -> None:
    pytester.makeconftest(KNOWN.replace("NAMES", "('passes',)").replace("SERIES", series))
    result, summary = run(pytester, PASSES, *workers)
    assert counts(summary) == {"claims": 1, outcome: 1}
    assert result.ret == (outcome == "failed")
    told = "no success: *test_passes is listed in reference.known.toml and fails no more"
    if outcome == "failed":
        result.stdout.fnmatch_lines([told])
    else:
        result.stdout.no_fnmatch_line(told)


def test_a_worker_that_dies_leaves_its_claim_failed(pytester: pytest.Pytester) -> None:
    text = PASSES + "import os\n@claim('dies', source='')\ndef test_dies():\n    os._exit(0)\n"
    result, summary = run(pytester, text, "-n", "2")
    assert result.ret == 1
    assert summary.outcomes["loading/test_it.py::test_dies"] == "failed"


@pytest.mark.parametrize("workers", [(), ("-n", "2")], ids=["alone", "workers"])
def test_a_test_without_a_claim_is_none(pytester: pytest.Pytester, workers: tuple[str, ...]) -> None:
    result, summary = run(pytester, PASSES + "def test_plain():\n    pass\n", *workers)
    assert result.ret == 0
    assert counts(summary) == {"claims": 1, "passed": 1}


def test_what_nobody_asked_for_is_not_missing(pytester: pytest.Pytester) -> None:
    text = PASSES + "@claim('other', source='')\ndef test_other():\n    assert 0\n"
    result, summary = run(pytester, text, "-k", "passes")
    assert result.ret == 0
    assert counts(summary) == {"claims": 1, "passed": 1}


def test_a_capability_that_the_kernel_should_have_is_no_skip(pytester: pytest.Pytester) -> None:
    text = """
import pytest
from types import SimpleNamespace
from harness.capabilities import Found
from harness.plugin import claim

@pytest.fixture(scope="session")
def build():
    return SimpleNamespace(definition=SimpleNamespace(expects=("spawn",)))

@pytest.fixture(scope="session")
def capabilities():
    return {"spawn": Found(False, "it fell silent"), "halt": Found(False, "no such command")}

@claim("expected", source="")
@pytest.mark.needs("spawn")
def test_expected():
    pass

@claim("not expected", source="")
@pytest.mark.needs("halt")
def test_not_expected():
    pass

@claim("not all of it expected", source="")
@pytest.mark.needs("spawn", "halt")
def test_one_of_two_expected():
    pass
"""
    result, summary = run(pytester, text)
    assert counts(summary) == {"claims": 3, "failed": 1, "skipped": 2}
    assert "it fell silent" in summary.failures["loading/test_it.py::test_expected"]
    result.stdout.fnmatch_lines(["*no 'halt': no such command*"])


def test_more_skips_than_recorded_are_no_success() -> None:
    summary = suite.summarize([result("a/t.py::a", "skipped"), result("a/t.py::b", "passed")])
    assert suite.objections(summary, 1) == []
    assert suite.objections(summary, None) == []
    assert "1 claims were skipped" in suite.objections(summary, 0)[0]


def test_a_run_that_checked_nothing_is_no_success() -> None:
    assert suite.objections(suite.summarize([result("a/t.py::a", "skipped")]), None)


def result(key: str, outcome: str) -> suite.Result:
    return suite.Result(Claim(key, key, ""), outcome, "")


def test_the_worst_case_is_the_claims() -> None:
    counted = Suite()
    claim = Claim("loading/t.py::test", "text", "source")
    for case, outcome in (("[a]", "passed"), ("[b]", "known"), ("[c]", "skipped")):
        counted.ended(f"tests/conformance/{claim.key}{case}", outcome, claim, "")
    assert [one.outcome for one in counted.results()] == ["known"]


def test_new_failures() -> None:
    before = {"same": "failed", "worse": "passed", "skipped before": "skipped", "better": "failed"}
    now = {
        "same": "failed",
        "worse": "failed",
        "skipped before": "failed",
        "better": "passed",
        "new": "not_run",
    }
    assert compare.new_failures(now, before) == ["worse", "skipped before", "new"]


def test_the_value_of_an_option_names_no_tests() -> None:
    assert not testing.named(["--kernel", "rfc-v1", "--series", str(paths.KERNELS), "-k", "x"])
    assert not testing.named(["--deselect", "tests/conformance/starting/test_soak.py"])
    assert testing.named(["-x", "tests/conformance/loading"])
    assert testing.named([f"{testing.CONFORMANCE}/starting/test_start.py::test_clock"])


def test_a_file_that_is_none_of_the_suites_is_refused() -> None:
    testing.require_tests(["-x", "tests/conformance/loading/test_it.py", "--series", "/my/series.py"])
    with pytest.raises(UsageError, match=r"tests/vm/test_guest\.py is not in tests/conformance"):
        testing.require_tests(["-x", "tests/conformance/loading", "tests/vm/test_guest.py::test_it"])
    with pytest.raises(UsageError, match=r"tests/vm/test_guest\.py is not in tests/conformance"):
        testing.require_tests(["-x", "tests/vm/test_guest.py"])


FLAKY = """
from pathlib import Path
from harness.plugin import claim

@claim("it holds the second time", source="a post")
def test_flaky():
    tried = Path(__file__).with_name("tried")
    before = tried.exists()
    tried.touch()
    assert before

@claim("it never holds", source="a post")
def test_bad():
    assert False
"""

RETRY = """
import msgspec
from pathlib import Path
from types import SimpleNamespace
from harness import paths, testing
from harness.progress import Progress

paths.CHECKOUT = Path.cwd()
testing.CONFORMANCE = Path.cwd() / "tests" / "conformance"
build = SimpleNamespace(digest="0123")
status, summary = testing.run(build, [], Progress(), workers=0, retry=True)
print(msgspec.json.encode([status, summary]).decode())
"""


def test_a_claim_that_holds_when_tried_again_is_unstable_and_no_success(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = pytester.path / AREA
    folder.mkdir(parents=True)
    (folder / "test_it.py").write_text(FLAKY)
    monkeypatch.setenv("MKHARNESS_CACHE", str(pytester.path / "cache"))
    printed = pytester.runpython_c(RETRY).stdout.lines[-1]
    status, summary = msgspec.json.decode(printed, type=tuple[int, Summary])
    assert status == 1
    assert (summary.claims, summary.failed, summary.unstable) == (2, 1, 1)
    assert summary.outcomes == {
        "loading/test_it.py::test_bad": "failed",
        "loading/test_it.py::test_flaky": "unstable",
    }
    assert summary.areas["loading"].unstable == 1
