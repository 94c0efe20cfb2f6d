# SPDX-License-Identifier: MIT
"""The command line keeps the habits of the field: help, exit statuses, colour, JSON, completion."""

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pexpect
import pytest

from harness import testing
from harness.cli import app
from harness.report.suite import Summary

BIN = Path(sys.executable).parent
COLOUR = re.compile(r"\x1b\[(?:\d+;)*(?:3\d|4\d|9\d|10\d)(?:;\d+)*m")


def environment(**more: str) -> dict[str, str]:
    kept = {key: value for key, value in os.environ.items() if key not in {"NO_COLOR", "FORCE_COLOR"}}
    return kept | {"PATH": f"{BIN}:{os.environ['PATH']}", "TERM": "xterm-256color", "COLUMNS": "100"} | more


def mkh(*words: str, cwd: Path | None = None, **more: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["mkh", *words], text=True, capture_output=True, check=False, env=environment(**more), cwd=cwd
    )


def on_a_terminal(*words: str, **more: str) -> str:
    command = ["script", "-qec", shlex.join(["mkh", *words]), "/dev/null"]
    return subprocess.run(
        command, text=True, stdout=subprocess.PIPE, check=False, env=environment(**more)
    ).stdout


def commands(parent=app, path=()):
    for name in parent:
        if not name.startswith("-"):
            child = parent[name]
            yield (*path, name), child
            yield from commands(child, (*path, name))


@pytest.mark.parametrize(("path", "command"), list(commands()), ids=lambda value: str(value)[:30])
def test_every_command_and_option_has_help(path, command):
    sentence = command.help.partition("\n")[0]
    assert sentence[0].isupper()
    assert "." in sentence or ":" in sentence or ";" in sentence
    if command.default_command is None:
        return
    assert "For example" in command.help
    assert f"mkh {' '.join(path)}" in command.help
    for argument in command.assemble_argument_collection():
        assert argument.parameter.help, f"mkh {' '.join(path)} {argument.name}"


def test_the_walk_finds_the_commands():
    assert {("test",), ("doctor",), ("series", "apply"), ("store", "gc")} <= {path for path, _ in commands()}


@pytest.mark.parametrize("words", ["--help", "test --help", "series show nothing", "store list"])
def test_no_control_character_goes_into_a_pipe(tmp_path, words):
    done = mkh(*words.split(), MKHARNESS_CACHE=str(tmp_path))
    said = done.stdout + done.stderr
    assert said
    assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f]", said)


@pytest.mark.parametrize("words", ["series show nothing", "doctor"])
def test_no_colour_is_for_no_color(tmp_path, words):
    assert not COLOUR.search(on_a_terminal(*words.split(), MKHARNESS_CACHE=str(tmp_path), NO_COLOR="1"))


def test_there_would_be_colour():
    assert COLOUR.search(on_a_terminal("series", "show", "nothing"))


@pytest.mark.parametrize("words", ["store list --json", "series show {patch} --json"])
def test_json_is_alone_on_standard_output(tmp_path, words):
    patch = tmp_path / "a.patch"
    patch.write_text("From: A <a@example.org>\nSubject: [PATCH] a\n\n--- a/a\n+++ b/a\n@@ -0,0 +1 @@\n+a\n")
    done = mkh(*words.format(patch=patch).split(), MKHARNESS_CACHE=str(tmp_path / "cache"))
    json.loads(done.stdout)


@pytest.mark.parametrize("words", ["completion bash", "store list"])
def test_a_reader_that_leaves_is_no_error(words):
    script = f"mkh {words} | sleep 0; echo ${{PIPESTATUS[0]}}"
    done = subprocess.run(
        ["bash", "-c", script], text=True, capture_output=True, check=False, env=environment()
    )
    # rich, which draws tables, ends by itself, with 1.
    assert done.stdout in {"141\n", "1\n"}
    assert not done.stderr


@pytest.mark.parametrize(
    ("words", "status"),
    [
        ("build --nonsense", 2),
        ("build no-such-definition", 2),
        ("test --workers many", 2),
        ("test /somewhere/test_mine.py -k words", 2),
        ("test tests/vm/test_guest.py", 2),
        ("test --workers many --bisect", 128),
        ("test --kernel no-such-definition --bisect", 128),
        ("test --against no-such-run --bisect", 128),
    ],
)
def test_a_question_without_sense(words, status):
    assert mkh(*words.split()).returncode == status


@pytest.mark.parametrize(
    ("status", "counts", "told"),
    [
        (0, {"passed": 3}, 0),
        (0, {"passed": 3, "skipped": 1}, 0),
        (1, {"passed": 3, "failed": 1}, 1),
        (1, {"passed": 3, "unstable": 1}, 1),
        (1, {"skipped": 4}, 125),
        (1, {"not_run": 4}, 125),
        (2, {}, 128),
        (130, {"passed": 3, "failed": 1, "not_run": 2}, 130),
    ],
)
def test_what_git_bisect_is_told(status, counts, told):
    assert testing.bisect_status(status, Summary(**counts)) == told


def test_git_bisect_skips_what_cannot_be_built(tmp_path):
    tree, cache = tmp_path / "linux", tmp_path / "cache"
    tree.mkdir()

    def git(*words: str) -> str:
        who = ["-c", "user.name=a", "-c", "user.email=a@example.org"]
        done = subprocess.run(
            ["git", *who, *words],
            cwd=tree,
            text=True,
            capture_output=True,
            check=False,
            env=environment(MKHARNESS_CACHE=str(cache)),
        )
        return done.stdout + done.stderr

    git("init", "-q", "-b", "main")
    (tree / "Makefile").write_text("VERSION = 7\n")
    for number in range(4):
        (tree / "file").write_text(str(number))
        git("add", "-A")
        git("commit", "-qm", str(number))
    git("bisect", "start", "HEAD", "HEAD~3")
    said = git("bisect", "run", "mkh", "test", "--bisect", "--base", ".@HEAD", "--kernel", "mainline")
    assert "only 'skip'ped commits left" in said
    done = mkh("test", "--bisect", "--base", ".@HEAD", cwd=tree, MKHARNESS_CACHE=str(cache))
    assert done.returncode == 125, done.stderr


@pytest.fixture
def shell():
    child = pexpect.spawn(
        "bash", ["--norc", "--noprofile", "-i"], env=environment(PS1="ready> "), encoding="utf-8", timeout=120
    )
    child.sendline("bind 'set enable-bracketed-paste off'; source <(mkh completion bash); PS1='go''>'")
    child.expect_exact("go>")
    yield child
    child.close(force=True)


@pytest.mark.parametrize(
    ("typed", "completed"),
    [
        ("mkh comp", "mkh completion "),
        ("mkh store g", "mkh store gc "),
        ("mkh test --bis", "mkh test --bisect "),
        ("mkh test --kernel rfc-v2-6", "mkh test --kernel rfc-v2-6.18 "),
        ("mkh demo --accel tc", "mkh demo --accel tcg "),
    ],
)
def test_bash_completes(shell, typed, completed):
    shell.send(f"{typed}\t")
    shell.expect_exact(completed)


@pytest.mark.parametrize(("name", "flag"), [("zsh", "#compdef mkh"), ("fish", "complete -c mkh")])
def test_other_shells_get_a_script(name, flag):
    assert flag in mkh("completion", name).stdout
