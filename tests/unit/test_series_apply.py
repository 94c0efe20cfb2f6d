# SPDX-License-Identifier: MIT
"""`mkh series apply` says for a series and a base how every patch applies, and builds nothing."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from harness import paths
from harness.cli_series import apply
from harness.errors import UsageError

SOURCE = (
    "int one(void)\n{\n\tint ret;\n\n\tlock();\n\treturn ret;\n}\n\nint two(void)\n{\n\tint ret = 0;\n}\n"
)
MOVED = "@@ -3,6 +3,7 @@ int one(void)\n \tint ret;\n \n \tlock();\n+\tnew();\n \treturn ret;\n }\n \n"


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MKHARNESS_CACHE", str(tmp_path / "cache"))
    top = tmp_path / "linux"
    top.mkdir()
    (top / "Makefile").write_text("VERSION = 7\nPATCHLEVEL = 3\nSUBLEVEL = 0\nEXTRAVERSION =\n")
    for name in ("Kbuild", "Kconfig"):
        (top / name).touch()
    (top / "a.c").write_text("/* above */\n" + SOURCE)
    return tmp_path


def run(world: Path, hunk: str, **options: object) -> int:
    (world / "x.patch").write_text(f"--- a/a.c\n+++ b/a.c\n{hunk}")
    return apply(str(world / "x.patch"), base=str(world / "linux"), **options)  # type: ignore[arg-type]


def test_moved_hunks_are_told_in_a_line(world, capsys):
    assert run(world, MOVED) == 0
    said = capsys.readouterr().out
    assert "1 offset by +1 to +1 lines" in said
    assert "1 patches, 1 hunks, 1 offset" in said
    assert not (world / "cache").exists(), "a folder is looked at, not copied"


def test_a_clean_series_needs_one_line_and_verbose_tells_all(world, capsys):
    clean = MOVED.replace("-3,6 +3,7", "-4,6 +4,7")
    assert run(world, clean) == 0
    assert capsys.readouterr().out.splitlines() == ["1 patches, 1 hunks, all clean"]
    assert run(world, clean, verbose=True) == 0
    assert "a.c" in capsys.readouterr().out


def test_rejects_and_misplaced_hunks_give_status_1_and_are_shown(world, capsys):
    assert run(world, MOVED.replace("lock();", "take();")) == 1
    assert "rejected" in capsys.readouterr().out
    wrong = MOVED.replace("int one(void)", "int two(void)")
    assert run(world, wrong) == 1
    assert "misplaced, landed in one, at line 7; the patch means two" in capsys.readouterr().out


def test_fuzz_by_option(world, capsys):
    fuzzy = MOVED.replace(" }\n \n", " }\n other\n")
    assert run(world, fuzzy) == 1
    assert run(world, fuzzy, fuzz=1) == 0
    assert "fuzz 1" in capsys.readouterr().out


def test_json(world, capsys):
    assert run(world, MOVED, json=True) == 0
    told = json.loads(capsys.readouterr().out)
    (patch,) = told["patches"]
    assert (patch["patch"], patch["files"], patch["hunks"]) == ("x.patch", ["a.c"], {"offset": 1})
    assert patch["unclean"] == [{"file": "a.c", "hunk": 1, "outcome": "offset", "line": 7, "offset": 1}]
    assert (told["base"].endswith("(7.3.0)"), told["applies"]) == (True, True)


def test_a_definition_brings_series_base_and_fuzz_of_its_own(world, monkeypatch, capsys):
    (world / "x.patch").write_text(f"--- a/a.c\n+++ b/a.c\n{MOVED}")
    (world / "mine.toml").write_text(
        'summary = "x"\ndialect = "reference"\nconfigs = ["base"]\ntopology = "pair"\nseries = "x.patch"\n'
        f'[[bases]]\nkind = "path"\npath = "{world / "linux"}"\n'
    )
    monkeypatch.setattr(paths, "KERNELS", world)
    assert apply(str(world / "mine.toml")) == 0
    assert "1 offset" in capsys.readouterr().out


def test_a_series_alone_has_no_base(world):
    (world / "x.patch").write_text(f"--- a/a.c\n+++ b/a.c\n{MOVED}")
    with pytest.raises(UsageError, match="base"):
        apply(str(world / "x.patch"))
