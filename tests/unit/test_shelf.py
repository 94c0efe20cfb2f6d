# SPDX-License-Identifier: MIT
"""The shelf of stages, with folders that no QEMU has made."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
from filelock import FileLock

from harness.errors import HarnessError
from harness.vm import memory, snapshot
from harness.vm.console import History
from harness.vm.shelf import Shelf
from harness.vm.spec import MachineSpec

MIB = 1 << 20
SPEC = MachineSpec(Path("kernel"), None, "", 1, 1, "pc", "qemu64", ())


def filled(folder: Path, size: int = MIB) -> None:
    meta = snapshot.Meta("", "tcg", SPEC, {"guest": History(b"x", ((0, -1.5),))}, 0, msgspec.Raw(b"null"))
    (folder / snapshot.RAM).write_bytes(b"x" * size)
    (folder / snapshot.STATE).write_bytes(b"")
    (folder / snapshot.META).write_bytes(msgspec.json.encode(meta, enc_hook=str))


@pytest.fixture
def roots(tmp_path: Path) -> tuple[Path, Path]:
    return tmp_path / "shm", tmp_path / "disk"


def names(root: Path) -> set[str]:
    return {folder.name for folder in root.iterdir() if folder.is_dir()}


def test_a_stage_is_made_once(roots: tuple[Path, Path]) -> None:
    made = []

    def make(folder: Path) -> None:
        made.append(folder)
        filled(folder)

    shelf = Shelf(roots)
    assert shelf.find("a") is None
    first, again = (shelf.obtain("a", MIB, make) for _ in range(2))
    assert len(made) == 1
    assert first == again
    assert first.folder == roots[0] / "a"
    assert first.meta.histories["guest"] == History(b"x", ((0, -1.5),))


def test_what_could_not_be_made_leaves_nothing(roots: tuple[Path, Path]) -> None:
    def make(folder: Path) -> None:
        filled(folder)
        raise HarnessError("it did not boot")

    with pytest.raises(HarnessError, match="it did not boot"):
        Shelf(roots).obtain("a", MIB, make)
    assert names(roots[0]) == set()


@pytest.mark.parametrize("missing", [snapshot.RAM, snapshot.STATE, snapshot.META])
def test_an_incomplete_stage_is_made_again(roots: tuple[Path, Path], missing: str) -> None:
    shelf = Shelf(roots)
    stage = shelf.obtain("a", MIB, filled)
    (stage.folder / missing).unlink()
    assert shelf.find("a") is None
    assert (shelf.obtain("a", MIB, filled).folder / missing).exists()


def test_the_least_recently_used_go_first_and_those_in_use_stay(roots: tuple[Path, Path]) -> None:
    shelf = Shelf(roots, limit=3 * MIB // 2)
    for age, name in enumerate("dcba"):
        stage = Shelf(roots).obtain(name, MIB, filled)
        os.utime(stage.folder, (1e9 + age, 1e9 + age))
    with snapshot.holding(roots[0] / "d") as held:
        assert held
        shelf.obtain("new", MIB, filled)
    # The oldest is in use; so the newest has to go as well.
    assert names(roots[0]) == {"d", "new"}
    shelf.obtain("newer", MIB, filled)
    assert names(roots[0]) == {"new", "newer"}


def test_what_killed_makers_left_is_removed(roots: tuple[Path, Path]) -> None:
    shelf = Shelf(roots)
    shelf.obtain("a", MIB, filled)
    for left in ("dead.new", "busy.new", "cut.new", "removed.old"):
        filled_folder(roots[0] / left)
    with FileLock(roots[1] / "b.lock"):
        shelf.obtain("c", MIB, filled)
    # What shares its lock with the stage that is being made stays until the next time.
    assert names(roots[0]) == {"a", "c", "busy.new", "cut.new"}
    shelf.obtain("e", MIB, filled)
    assert names(roots[0]) == {"a", "c", "e"}


def filled_folder(folder: Path) -> None:
    folder.mkdir()
    filled(folder)


def test_on_disk_where_there_is_no_room_in_memory(
    roots: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    real = memory.room
    monkeypatch.setattr(memory, "room", lambda folder: 0 if folder == roots[0] else real(folder))
    assert Shelf(roots).obtain("a", MIB, filled).folder == roots[1] / "a"
    monkeypatch.setattr(memory, "room", lambda folder: 0)
    with pytest.raises(HarnessError, match="no room for a frozen machine with 1 MiB"):
        Shelf(roots).obtain("b", MIB, filled)


def test_a_folder_that_others_can_write_is_not_trusted(roots: tuple[Path, Path]) -> None:
    stage = Shelf(roots).obtain("a", MIB, filled)
    roots[0].chmod(0o777)
    assert Shelf(roots).find("a") is None
    assert Shelf(roots).obtain("a", MIB, filled).folder != stage.folder


def test_a_stage_that_was_removed_is_not_held(roots: tuple[Path, Path]) -> None:
    shelf = Shelf(roots)
    stage = shelf.obtain("a", MIB, filled)
    with snapshot.holding(stage.folder) as held:
        assert held
        assert not shelf.remove("a")
    assert shelf.remove("a")
    with snapshot.holding(stage.folder) as held:
        assert not held


def sparse(path: Path, pieces: dict[int, bytes], size: int) -> None:
    with path.open("wb") as file:
        for position, data in pieces.items():
            file.seek(position)
            file.write(data)
        file.truncate(size)


@pytest.mark.parametrize(
    "pieces",
    [{}, {0: b"begin"}, {8 * MIB - 3: b"end"}, {0: b"a" * MIB, 3 * MIB + 5: b"b" * 5000, 7 * MIB: b"c"}],
)
@pytest.mark.parametrize("folder", [lambda path: path, lambda path: memory.SHM], ids=["disk", "shm"])
def test_a_copy_is_the_same_and_keeps_the_holes(
    tmp_path: Path, pieces: dict[int, bytes], folder: Callable[[Path], Path]
) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    sparse(source, pieces, 8 * MIB)
    with source.open("rb") as file, memory.open_ram(8 * MIB, (folder(tmp_path),)) as ram:
        memory.copy_sparse(file, ram)
        memory.name_ram(ram, target)
    assert target.read_bytes() == source.read_bytes()
    assert memory.in_use(target) <= memory.in_use(source) + 4 * 4096
    assert target.stat().st_mode & 0o077 == 0


def test_caches_do_not_share_stages_whose_locks_they_do_not_share(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run with a cache of its own once removed what another was just making."""
    roots = []
    for name in ("one", "two"):
        monkeypatch.setenv("MKHARNESS_CACHE", str(tmp_path / name))
        roots.append(Shelf().roots)
        assert Shelf().roots == roots[-1]
    assert not set(roots[0]) & set(roots[1])
