# SPDX-License-Identifier: MIT
"""What was written since a mark goes, what is older stays."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from harness.build import unfinished


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "deep").mkdir()
    for name in ("old", "deep/old"):
        (tmp_path / name).write_text("complete")
        os.utime(tmp_path / name, (time.time() - 60,) * 2)
    return tmp_path


def names(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if not path.is_dir())


def test_only_what_is_younger_than_the_mark_goes(folder):
    unfinished.begin(folder)
    (folder / "new").write_text("ha")
    (folder / "deep/new").symlink_to("nowhere")
    (folder / "deep/old").write_text("written again, and cut sh")
    assert unfinished.discard(folder) == 3
    assert names(folder) == ["old"]
    assert unfinished.discard(folder) == 0


def test_without_a_mark_nothing_goes(folder):
    assert unfinished.discard(folder) == 0
    assert unfinished.discard(folder / "missing") == 0
    assert names(folder) == ["deep/old", "old"]


@pytest.mark.parametrize("text", ["cut", str(time.time_ns() + 10**15)], ids=["cut", "in the future"])
def test_mark_that_says_nothing_takes_everything(folder, text):
    (folder / unfinished.MARK).write_text(text)
    assert unfinished.discard(folder) == 2
    assert names(folder) == []


def test_mark_that_was_touched_again_keeps_its_time(folder):
    unfinished.begin(folder)
    (folder / "new").write_text("ha")
    os.utime(folder / "new", (time.time() + 0.5,) * 2)
    time.sleep(1.2)
    (folder / unfinished.MARK).touch()
    assert unfinished.discard(folder) == 1
