# SPDX-License-Identifier: MIT
"""Machines at a stage, when forks work and when they do not; no QEMU."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any, cast

import msgspec
import pytest
from rich.console import Console

from harness import forks as module
from harness.build import Build
from harness.definition import load_definition, load_topology
from harness.errors import HarnessError
from harness.forks import GIVE_UP, Forks
from harness.progress import Progress
from harness.vm.accel import Accel
from harness.vm.migration import ForkError
from harness.vm.shelf import Shelf
from harness.vm.snapshot import Meta, Stage
from harness.vm.spec import MachineSpec

TOPOLOGY = load_topology("pair")


class FakeLab:
    """What a Lab does, written down in ``log``."""

    log: list[str] = []  # noqa: RUF012
    fork_fails = False
    spawn_fails = False
    runs_on: Accel | None = None

    def __init__(
        self,
        build: Build,
        topology: Any,
        accel: Accel,
        *_: object,
        stage: Stage | None = None,
        ram_folders: object = None,
    ) -> None:
        self.stage = stage
        self.accel = accel if self.runs_on is None else self.runs_on
        self.derived = ram_folders is not None

    def __enter__(self) -> FakeLab:
        if self.stage is not None and self.fork_fails:
            raise ForkError("it did not go on")
        self.log.append("boot" if self.stage is None else "derive" if self.derived else "fork")
        return self

    def __exit__(self, *_: object) -> None:
        self.log.append("end")

    def pair(self) -> None:
        if self.spawn_fails:
            raise HarnessError("it did not spawn")
        self.log.append("spawn")

    def freeze(self, folder: Path) -> None:
        spec = MachineSpec(Path("kernel"), None, "", 1, 1, "pc", "qemu64", ())
        meta = Meta("", "tcg", spec, {}, 0, msgspec.Raw(b"[]"))
        (folder / "meta.json").write_bytes(msgspec.json.encode(meta, enc_hook=str))
        (folder / "ram").touch()
        (folder / "state").touch()
        self.log.append("freeze")


@pytest.fixture
def forks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Forks:
    monkeypatch.setattr(module, "Lab", FakeLab)
    monkeypatch.setattr(
        module.snapshot, "digest_of", lambda spec, accel, steps: f"{steps.split()[-2]}-{accel.name}"
    )
    monkeypatch.setattr(FakeLab, "log", [])
    monkeypatch.delenv("CI", raising=False)
    (tmp_path / "config").write_text("CONFIG_HZ=250\n", encoding="ascii")
    build = Build(load_definition("reference"), "digest", "7.3", tmp_path, "", True)
    return Forks(build, TOPOLOGY, Accel("tcg", "tcg", "", 5.0), Shelf((tmp_path / "shm",)))


@pytest.fixture
def progress() -> Progress:
    return Progress(Console(file=io.StringIO(), width=200))


def use(forks: Forks, name: Any, progress: Progress) -> None:
    with forks.lab(name, progress):
        FakeLab.log.append("test")


def printed(progress: Progress) -> str:
    return cast(io.StringIO, progress.console.file).getvalue()


def test_a_stage_is_made_once_and_forked_for_everyone(forks: Forks, progress: Progress) -> None:
    for _ in range(2):
        use(forks, "spawned", progress)
    use(forks, "booted", progress)
    once = ["boot", "freeze", "end", "derive", "spawn", "freeze", "end"]
    assert FakeLab.log == [*once, *["fork", "test", "end"] * 3]
    assert (forks.booted, forks.forked, forks.failed) == (1, 3, 0)


def test_a_machine_that_fell_back_makes_stages_of_what_runs_it(
    forks: Forks, progress: Progress, monkeypatch: pytest.MonkeyPatch
) -> None:
    tcg, forks.accel = forks.accel, Accel("kvm", "kvm", "", 1.0)
    monkeypatch.setattr(FakeLab, "runs_on", tcg)
    use(forks, "booted", progress)
    assert forks.accel is tcg
    assert forks.shelf.find("booted-kvm") is None
    assert forks.shelf.find("booted-tcg") is not None
    assert FakeLab.log == ["boot", "end", "boot", "freeze", "end", "fork", "test", "end"]


def test_a_fork_that_fails_is_counted_shown_and_replaced(
    forks: Forks, progress: Progress, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(FakeLab, "fork_fails", True)
    use(forks, "spawned", progress)
    stages = ["boot", "freeze", "end", "boot", "spawn", "freeze", "end"]
    assert FakeLab.log == [*stages, "boot", "spawn", "test", "end"]
    assert (forks.booted, forks.forked, forks.failed) == (3, 0, 1)
    assert "a fork did not resume" in printed(progress)
    assert "it did not go on" in printed(progress)
    monkeypatch.setattr(FakeLab, "fork_fails", False)
    FakeLab.log.clear()
    use(forks, "spawned", progress)
    assert FakeLab.log == ["derive", "spawn", "freeze", "end", "fork", "test", "end"], "the stage was kept"


def test_after_several_that_fail_every_machine_is_booted(
    forks: Forks, progress: Progress, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(FakeLab, "fork_fails", True)
    for _ in range(GIVE_UP):
        use(forks, "booted", progress)
    FakeLab.log.clear()
    use(forks, "booted", progress)
    assert FakeLab.log == ["boot", "test", "end"]
    assert forks.failed == GIVE_UP


def test_a_fork_that_fails_is_an_error_in_ci(
    forks: Forks, progress: Progress, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(FakeLab, "fork_fails", True)
    monkeypatch.setenv("CI", "true")
    with pytest.raises(ForkError, match="it did not go on"):
        use(forks, "booted", progress)
    assert forks.failed == 1


def test_a_stage_that_cannot_be_made_is_tried_once(
    forks: Forks, progress: Progress, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(FakeLab, "spawn_fails", True)
    for _ in range(2):
        with pytest.raises(HarnessError, match="it did not spawn"):
            use(forks, "spawned", progress)
    assert FakeLab.log == ["boot", "freeze", "end", "derive", "end"]
