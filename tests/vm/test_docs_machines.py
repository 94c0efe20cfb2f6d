# SPDX-License-Identifier: MIT
"""The commands of the documents that need a built kernel run, on the reference (tests/documented.py).

What many of them share is run once: each option that one of them has is in a command below. One claim is
tried; by pytest alone, which takes files from anywhere, the example of docs/tests.md as it stands there.
"""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from documented import held

from harness import paths
from harness.build import Build
from harness.vm.shelf import Shelf

BIN = Path(sys.executable).parent
SERIES = paths.KERNELS / "reference"
ALONE = (
    "mkh build reference --series SERIES --json",
    "mkh build mine.toml",
    "mkh store show reference",
    "mkh runs --kernel reference --all --carry runs",
    "mkh runs --gaps --since 2026-11-23T13:35",
    "mkh runs --gaps --carry runs",
    "mkh map --kernel reference --series SERIES",
    "mkh bench --messages --kernel reference --rounds 1",
)
IN_TURN = (
    "mkh test ONE -n 0 --kernel reference --series SERIES -k WORDS --report out --retry --json",
    "mkh test ONE -n 0 --bisect --against out/report.json",
    "pytest CLAIM --kernel reference --series SERIES -k test_cpus --report again --against out/report.json",
    "pytest CLAIM --no-oracles",
)
CLAIM = Path("tests/conformance/starting/test_own.py")
ONE = "tests/conformance/starting/test_pair.py::test_user_space"
ELSEWHERE = {"--base"}
"""Options that would build another kernel."""


@pytest.fixture
def place(
    build: Build, tmp_path: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Path]:
    """A folder with a claim and a definition, and a cache that has the builds and no earlier runs."""
    if build.definition.name != "reference" or request.config.getoption("--series"):
        pytest.skip("the reference stands for every kernel in the documents")
    cache = tmp_path / "cache"
    cache.mkdir()
    for part in paths.cache().iterdir():
        if part.name not in {"runs", "failures"}:
            (cache / part.name).symlink_to(part)
    example = re.search(r"```python\n(.*?)```", (paths.CHECKOUT / "docs/tests.md").read_text(), re.DOTALL)
    assert example is not None
    (tmp_path / CLAIM).parent.mkdir(parents=True)
    (tmp_path / CLAIM).write_text(example[1])
    text = (paths.KERNELS / "reference.toml").read_text()
    # The same inputs, so nothing is built for it.
    (tmp_path / "mine.toml").write_text(text.replace('series = "reference"', f'series = "{SERIES}"'))
    yield tmp_path
    # Machines are kept in memory, each cache's apart, and nobody will come back to this one's.
    monkeypatch.setenv("MKHARNESS_CACHE", str(cache))
    shutil.rmtree(Shelf().roots[0], ignore_errors=True)


def run(command: str, place: Path) -> subprocess.CompletedProcess[str]:
    names = {"SERIES": str(SERIES), "CLAIM": str(place / CLAIM), "ONE": ONE, "WORDS": ONE.rpartition("::")[2]}
    program, *words = (names.get(word, word) for word in command.split())
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST")}
    done = subprocess.run(
        [str(BIN / program), *words],
        cwd=place,
        env={**environment, "MKHARNESS_CACHE": str(place / "cache")},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, f"{command}: {done.returncode}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    assert done.stdout + done.stderr
    return done


@pytest.mark.parametrize("command", ALONE)
def test_a_command_on_the_reference(command: str, place: Path) -> None:
    run(command, place)


def test_the_example_of_a_claim_is_tried_and_reported(place: Path) -> None:
    said = [run(command, place) for command in IN_TURN]
    assert '"passed":1' in said[0].stdout
    assert "0 new failures" in said[1].stderr
    assert "1 passed" in said[2].stdout
    assert {file.name for file in (place / "again").iterdir()} >= {"report.html", "report.json", "junit.xml"}


def kind(command: str) -> str:
    """Return what is run: the program, and its command."""
    words = command.split()
    return " ".join(words[: 1 if words[0] == "pytest" else 3 if words[1] == "store" else 2])


def options(commands: Sequence[str]) -> set[str]:
    return {word for command in commands for word in command.split() if word.startswith("-")}


@pytest.mark.parametrize("command", held("on the reference"))
def test_what_a_document_has_is_in_a_command_that_is_run(command: str) -> None:
    alike = [one for one in (*ALONE, *IN_TURN) if kind(one) == kind(command)]
    assert alike
    assert options([command]) - ELSEWHERE <= options(alike)
