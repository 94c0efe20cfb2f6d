# SPDX-License-Identifier: MIT
"""Every command of the documents is held to its word, as tests/documented.py says; here without a machine."""

import os
import re
import shlex
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

import msgspec
import pytest
from documented import ELSEWHERE, EVERY, READ, WAYS, held, ways

from harness import coverage, failure, paths
from harness.build import coverage as notes
from harness.cli import app
from harness.report import folder as reports
from harness.report.reproduce import STEPS
from harness.vm import steps

BIN = Path(sys.executable).parent
STAND_INS = {"FOLDER/report.json": "out/report.json", "FOLDER": "counts", "SERIES": "patches"}
STAND_INS |= {"/path/to/linux": "linux", "test_stops": "test_fails", "RUN": "last"}
SKIPPED = 125
"""What `git bisect run` is told of a revision that cannot be judged."""


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A home with all that a small command asks for."""
    from mails import ENVELOPE, body, change, mail
    from test_report_record import every_outcome

    for name, content in {
        "Makefile": "VERSION = 7\n",
        "Kbuild": "",
        "Kconfig": "",
        "a.c": "one\ntwo\nthree\n",
    }.items():
        (tmp_path / "linux").mkdir(exist_ok=True)
        (tmp_path / "linux" / name).write_text(content)
    (tmp_path / "patches").mkdir()
    (tmp_path / "patches/0001-x.patch").write_text(body(change()))
    (tmp_path / "thread.mbox").write_bytes(ENVELOPE + mail("[PATCH] a: shout", body(change())))
    reports.write(tmp_path / "out", every_outcome())
    (tmp_path / "counts/build").mkdir(parents=True)
    (tmp_path / "counts/build/about.json").write_bytes(
        msgspec.json.encode(coverage.About("mine", "digest", ()))
    )
    (tmp_path / "counts/build" / notes.SERIES).write_text("{}")
    return tmp_path


@pytest.fixture
def environment(home: Path, monkeypatch: pytest.MonkeyPatch) -> Mapping[str, str]:
    from test_reproduce import QEMU, done

    monkeypatch.setenv("MKHARNESS_CACHE", str(home / "cache"))
    told = failure.Failure(
        test="tests/conformance/starting/test_a.py::test_a", ended=time.time(), why="no", qemu=QEMU
    )
    failure.keep(told, {"vcpus.txt": "vCPU 0: idle\n", STEPS: steps.to_json(done())})
    who = {
        f"GIT_{one}_{what}": "a@example.org" for one in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")
    }
    return {**os.environ, **who, "HOME": str(home), "PATH": f"{BIN}:{os.environ['PATH']}"}


def repository(home: Path, environment: Mapping[str, str]) -> None:
    """Make of ~/linux a history as docs/bisect.md has it, of ~/mkharness a clone."""
    commit = "date +%N >b.c && git add . && git commit -qm x"
    script = f"""cd linux; git init -qb main; {commit}; git tag v6.18; {commit}; git tag v6.19-rc1
        git checkout -qb topic; for i in 1 2 3 4 5; do {commit}; done; git clone -q . ../mkharness"""
    subprocess.run(["bash", "-ec", script], cwd=home, env=environment, check=True)


def test_each_command_is_held_to_its_word_in_one_way(capsys: pytest.CaptureFixture[str]) -> None:
    with capsys.disabled():
        print(f"\n{len(EVERY)} commands: {', '.join(f'{len(held(way))} {way}' for way in WAYS)}")
    assert len(EVERY) > 60
    assert {one: ways(one) for one in EVERY if len(ways(one)) != 1} == {}


def test_no_way_is_left_over_from_a_command_that_is_gone() -> None:
    told = [pattern for way in WAYS.values() for pattern in way]
    assert [one for one in told if not any(re.fullmatch(one, command) for command in EVERY)] == []


@pytest.mark.parametrize("file", sorted(set(ELSEWHERE.values())))
def test_the_test_that_runs_a_command_is_there(file: str) -> None:
    text = (paths.CHECKOUT / file).read_text()
    of_it = [
        one
        for one in held("elsewhere")
        if any(re.fullmatch(p, one) for p, at in ELSEWHERE.items() if at == file)
    ]
    assert {re.findall(r"[\w/.]+", one)[1] for one in of_it} <= set(re.findall(r"\w+", text))


@pytest.mark.parametrize("reason", sorted(set(READ.values())))
def test_a_reason_names_tests_that_are_there(reason: str) -> None:
    assert reason
    assert [
        name for name in re.findall(r"tests/\S+\.py", reason) if not (paths.CHECKOUT / name).exists()
    ] == []


@pytest.mark.parametrize("command", held("small"))
def test_a_small_command_runs(command: str, home: Path, environment: Mapping[str, str]) -> None:
    at = home
    if "bisect" in command or command.startswith(("git", "cd")):
        repository(home, environment)
        at = home / ("mkharness" if command == "git pull -q" else "linux")
    words = " ".join(STAND_INS.get(word, word) for word in command.split(" "))
    done = subprocess.run(
        ["bash", "-c", words],
        cwd=at,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    # `mkh doctor` may find that something is missing here.
    expected = (
        {SKIPPED} if command.startswith("mkh test --bisect") else {0, 1} if command == "mkh doctor" else {0}
    )
    assert done.returncode in expected, done.stdout + done.stderr
    assert done.stdout or command.startswith(("cd", "git", "mkh test --bisect")), "it says nothing"


@pytest.mark.parametrize("command", [one for one in EVERY if one not in held("small")])
def test_a_command_is_read(command: str, tmp_path: Path) -> None:
    program, *words = shlex.split(command)
    if program == "mkh":
        numbers = ["1" if word == "N" else word for word in words]
        _, bound, ignored = app.parse_args(numbers, exit_on_error=False, print_error=False)[:3]
        assert bound is not None
        assert not ignored
    elif program == "make":
        done = subprocess.run(
            ["make", "-n", *words], cwd=paths.CHECKOUT, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
    elif program == "pytest":
        pairs = zip(["", *words], words, strict=False)
        words = [
            str(tmp_path / "out")
            if before in {"--report", "--coverage"}
            else str(earlier(tmp_path))
            if before == "--against"
            else str(paths.KERNELS / "reference")
            if before == "--series"
            else word
            for before, word in pairs
        ]
        done = subprocess.run(
            [sys.executable, "-m", "pytest", "--collect-only", "-q", *words],
            cwd=paths.CHECKOUT,
            capture_output=True,
            text=True,
            check=False,
        )
        # 5: nothing is called so, where a name stands for the reader's own.
        assert done.returncode in {0, 5}, done.stdout + done.stderr
    else:
        assert program == "apt-get"


def earlier(folder: Path) -> Path:
    """Return the report of a run that there was."""
    from test_report_record import every_outcome

    reports.write(folder, every_outcome())
    return folder / reports.JSON
