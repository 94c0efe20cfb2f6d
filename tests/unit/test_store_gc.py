# SPDX-License-Identifier: MIT
"""`mkh store gc` finds frozen machines whatever cache they belong to; what is in use or not ours stays."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from harness import paths
from harness.build import inuse
from harness.build.clean import DAY
from harness.cli_store import gc
from harness.vm import memory


@pytest.fixture(autouse=True)
def places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("shm", "kernels"):
        (tmp_path / name).mkdir()
    monkeypatch.setattr(memory, "SHM", tmp_path / "shm")
    monkeypatch.setattr(paths, "KERNELS", tmp_path / "kernels")
    monkeypatch.setenv("MKHARNESS_CACHE", str(tmp_path / "cache"))


def frozen(name: str, age: float, root: Path | None = None) -> Path:
    """Leave a machine that a test began from ``age`` days ago."""
    folder = (root or memory.SHM / f"mkharness-{os.getuid()}-gone") / name
    folder.mkdir(parents=True)
    (folder / "ram").write_bytes(bytes(8192))
    os.utime(folder, (time.time() - age * DAY,) * 2)
    return folder


def test_those_of_a_cache_that_is_gone_go_after_a_day(capsys: pytest.CaptureFixture[str]) -> None:
    old, young = frozen("old", 1.1), frozen("young", 0.9)
    on_disk = frozen("large", 2, paths.cache() / "stages")
    assert gc(dry_run=True) == 0
    assert old.exists()
    assert gc() == 0
    assert [one.exists() for one in (old, young, on_disk)] == [False, True, False]
    first, second = capsys.readouterr().out.split("removed", 1)
    assert first.count("frozen machine") == second.count("frozen machine") == 2


def test_all_go_when_asked_for_but_one_that_is_made_or_used() -> None:
    kept, made = frozen("kept", 0.1), frozen("half.new", 0.1)
    free = frozen("free", 0.0)
    build = paths.cache() / "store/old"
    build.mkdir(parents=True)
    os.utime(build, (1, 1))
    assert inuse.hold(kept)
    assert gc(machines=True) == 0
    assert [one.exists() for one in (kept, made, free, build)] == [True, True, False, True]


def test_a_name_that_somebody_put_there_leads_nowhere(tmp_path: Path) -> None:
    precious = frozen("precious", 99, tmp_path / "elsewhere")
    (memory.SHM / f"mkharness-{os.getuid()}-link").symlink_to(precious.parent)
    assert gc(machines=True) == 0
    assert precious.exists()
