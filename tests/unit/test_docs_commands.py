# SPDX-License-Identifier: MIT
"""Every command in README and docs works: it is run where that is cheap, else read as the real one is."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from harness import paths
from harness.cli import app

FILES = (
    "README.md",
    "CONTRIBUTING.md",
    *sorted(f"docs/{file.name}" for file in paths.CHECKOUT.glob("docs/*.md")),
)
PROGRAMS = ("mkh", "pytest", "make", "git", "pip", "apt-get", "source", "cd", "bash", "sudo")
IN_LINE = re.compile(r"`((?:\.venv/bin/)?(?:mkh|pytest|make) [^`]+)`")
RUN = (
    "mkh doctor",
    "mkh completion bash",
    "mkh test --list",
    "mkh reproduce --list",
    "mkh store list",
    "mkh store gc --dry-run",
    "mkh series show FOLDER",
    "mkh series show thread.mbox",
)
"""Commands that take seconds, build nothing and start no machine."""
SERIES = paths.KERNELS / "reference"
STAND_INS = {
    "FOLDER": str(SERIES),
    "SERIES": str(SERIES),
    "thread.mbox": str(SERIES),
    "~/patches": str(SERIES),
}


def commands(text: str) -> list[str]:
    """Return the commands of a document: of its indented and fenced blocks, and in its lines."""
    found, fenced, part = [], False, ""
    for whole in text.split("\n"):
        line = whole
        if line.startswith("```"):
            fenced = not fenced
            continue
        if not (fenced or line.startswith("    ")):
            found += IN_LINE.findall(line)
            continue
        # YAML's and Groovy's ways to say that this is a command.
        line = re.sub(r"^\s*(?:- )?(?:run: |sh ')?|(?<=\S)'$|^\s*\$ ", "", line)
        part += line.removesuffix("\\")
        if line.endswith("\\"):
            continue
        for one in re.split(r" && | \|(?= )(?![^\[]*\])", part):
            words = re.sub(r"\s+#\s.*| > .*| 2>.*", "", one).strip()
            first = words.split(" ", 1)[0].removeprefix(".venv/bin/")
            if (first in PROGRAMS or words.startswith(".venv/bin/")) and " " in words and "=" not in first:
                found.append(words)
        part = ""
    return found


def variants(command: str) -> set[str]:
    """Return a command with and without each part in brackets, without the dots that stand for more."""
    command = command.replace(" ...", "").removeprefix("source <(").removesuffix(")")
    command = re.sub(r"\.venv/bin/", "", command)
    command = re.sub(r"^git bisect run ", "", command)
    return {" ".join(one.split()) for one in expanded(command)}


def expanded(command: str) -> set[str]:
    """Return a text with and without what is in brackets, the innermost first."""
    part = re.search(r"\[([^\[\]]*)\]", command)
    if part is None:
        return {command}
    return {
        one
        for inside in ("", *part[1].split(" | "))
        for one in expanded(command[: part.start()] + inside + command[part.end() :])
    }


TEXTS = {file: (paths.CHECKOUT / file).read_text() for file in FILES}
EVERY = sorted(
    {(one, file) for file, text in TEXTS.items() for command in commands(text) for one in variants(command)}
)


def held(command: str) -> str:
    """Return how a command is held to: ``run``, ``read``; empty where there is no way."""
    if command in RUN:
        return "run"
    return (
        "read" if command.split(" ", 1)[0] in {"mkh", "pytest", "make", "git", "pip", "apt-get", "cd"} else ""
    )


def test_there_is_a_way_to_hold_each_to_its_word(capsys: pytest.CaptureFixture[str]) -> None:
    assert len(EVERY) > 60
    with capsys.disabled():
        for way in ("run", "read"):
            print(f"\n{way}: {'; '.join(sorted({one for one, _ in EVERY if held(one) == way}))}")
    assert [one for one in EVERY if not held(one[0])] == []
    assert {one for one, _ in EVERY} >= set(RUN) - {"mkh series show FOLDER"}, (
        "one that is run is in no document"
    )


@pytest.mark.parametrize("command", sorted({one for one, _ in EVERY if held(one) == "run"}))
def test_a_cheap_command_runs(command: str) -> None:
    words = [STAND_INS.get(word, word) for word in shlex.split(command)[1:]]
    done = subprocess.run(
        [Path(sys.executable).with_name("mkh"), *words],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    # `mkh doctor` may find that something is missing here.
    assert done.returncode == 0 or (words == ["doctor"] and done.returncode == 1), done.stderr


@pytest.mark.parametrize(
    ("command", "file"), [one for one in EVERY if held(one[0]) == "read"], ids=lambda value: value[:70]
)
def test_a_command_is_read(command: str, file: str, tmp_path: Path) -> None:
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
            str(tmp_path / "out") if before in {"--report", "--coverage"} else STAND_INS.get(word, word)
            for before, word in pairs
        ]
        words = [str(earlier(tmp_path)) if word.endswith(".json") else word for word in words]
        done = subprocess.run(
            [sys.executable, "-m", "pytest", "--collect-only", "-q", *words],
            cwd=paths.CHECKOUT,
            capture_output=True,
            text=True,
            check=False,
        )
        # 5: nothing is called so, where a name stands for the reader's own.
        assert done.returncode in {0, 5}, done.stdout + done.stderr
    elif program == "git":
        assert re.match(r"git (bisect (start|reset)|pull|clone|checkout)\b", command), (
            "no git command that is known"
        )
    elif program == "pip":
        assert re.match(r"pip install( [\w-]+)+$", command)
    else:
        assert re.match(r"apt-get (update|install -y( [\w-]+)+)$|cd \S+$", command)


def earlier(folder: Path) -> Path:
    """Return the report of a run that there was."""
    from test_report_record import every_outcome

    from harness.report import folder as reports

    reports.write(folder, every_outcome())
    return folder / reports.JSON
