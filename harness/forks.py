# SPDX-License-Identifier: MIT
"""Machines for tests: each its own, forked from a machine that was brought to a stage once.

forks = Forks(build, topology, accel)
with forks.lab("spawned", progress) as lab:
    lab.pair()
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Literal

import msgspec
from rich.markup import escape

from harness import paths
from harness.build import Build
from harness.definition import Topology
from harness.errors import HarnessError
from harness.lab import Lab, machine_spec
from harness.progress import Progress
from harness.vm import memory, snapshot
from harness.vm.accel import Accel
from harness.vm.migration import ForkError
from harness.vm.shelf import Shelf
from harness.vm.snapshot import Stage

StageName = Literal["booted", "spawned"]
"""``booted``: the host's user space is up and its heartbeat runs. ``spawned``: the topology's first
spawned kernel has reached its user space, too."""

CODE = (
    "definition.py",
    "lab.py",
    "model.py",
    "process.py",
    "multikernel/*.py",
    "oracle/canaries.py",
    "vm/*.py",
)
"""The harness's own files that decide what a stage is: a change in one of them makes stages anew."""

GIVE_UP = 3
"""After so many failed forks it is not bad luck, and every machine is booted."""


class _FellBack(Exception):
    """The machine runs under another accelerator than its stage's name says."""


class Forks:
    """The stages of one build and topology. Counts machines ``booted``, ``forked`` and ``failed`` forks."""

    def __init__(self, build: Build, topology: Topology, accel: Accel, shelf: Shelf | None = None) -> None:
        self.build = build
        self.topology = topology
        self.accel = accel
        self.shelf = shelf or Shelf()
        self.booted = self.forked = self.failed = 0
        self._broken: dict[StageName, HarnessError] = {}
        self._digests: dict[StageName, str] = {}

    @contextmanager
    def lab(self, name: StageName, progress: Progress) -> Iterator[Lab]:
        """Yield a machine of one's own that is at stage ``name``, made when there is none.

        When a fork does not resume, the machine is booted instead; where $CI is ``true``, ForkError
        is raised. Raises HarnessError when the kernels do not get to the stage, every time the same.
        """
        with ExitStack() as stack:
            if self.failed < GIVE_UP:
                try:
                    lab = self._fork(stack, name, progress)
                    self.forked += 1
                except ForkError as error:
                    self._failed(name, error, progress)
                    lab = stack.enter_context(self._boot(name, progress))
            else:
                lab = stack.enter_context(self._boot(name, progress))
            yield lab

    def _fork(self, stack: ExitStack, name: StageName, progress: Progress) -> Lab:
        stage = self._stage(name, progress)
        try:
            return stack.enter_context(self._lab(progress, stage=stage))
        except ForkError:
            if stage.folder.exists():
                raise
        # Another process has thrown it out since it was found.
        return stack.enter_context(self._lab(progress, stage=self._stage(name, progress)))

    def _failed(self, name: StageName, error: ForkError, progress: Progress) -> None:
        self.failed += 1
        # The next one gets a stage made anew.
        self.shelf.remove(self._digest(name))
        if os.environ.get("CI") == "true":
            raise error
        progress.console.print(
            f"[red]a fork did not resume[/red], a machine is booted in its place: {escape(str(error))}",
            soft_wrap=True,
        )

    def _lab(
        self, progress: Progress, stage: Stage | None = None, ram: tuple[Path, ...] | None = None
    ) -> Lab:
        return Lab(self.build, self.topology, self.accel, progress, stage=stage, ram_folders=ram)

    @contextmanager
    def _boot(
        self, name: StageName, progress: Progress, ram: tuple[Path, ...] | None = None
    ) -> Iterator[Lab]:
        self.booted += 1
        with self._lab(progress, ram=ram) as lab:
            if lab.accel.name != self.accel.name:
                self.accel = lab.accel
                self._digests.clear()
            if name == "spawned":
                lab.pair()
            yield lab

    def _stage(self, name: StageName, progress: Progress) -> Stage:
        """Find a stage or make it. One that could not be made is not tried again, unless another makes it."""
        if name in self._broken:
            found = self.shelf.find(self._digest(name))
            if found is None:
                raise self._broken[name]
            del self._broken[name]
            return found

        def make(folder: Path) -> None:
            if not folder.is_relative_to(memory.SHM):
                progress.console.print(f"[yellow]there is no room in {memory.SHM}[/yellow]: {folder.parent}")
            accel = self.accel
            with self._bring(name, progress, (folder.parent,), below) as lab:
                if self.accel is not accel:
                    raise _FellBack
                with progress.step(f"freezing it as {name}"):
                    lab.freeze(folder)

        size = self.topology.memory_mib << 20
        try:
            found = self.shelf.find(self._digest(name))
            # Not while making the one above it: both might need the same lock.
            below = self._stage("booted", progress) if found is None and name == "spawned" else None
            return found or self.shelf.obtain(self._digest(name), size, make)
        except _FellBack:
            return self._stage(name, progress)
        except HarnessError as error:
            self._broken[name] = error
            raise

    @contextmanager
    def _bring(
        self, name: StageName, progress: Progress, ram: tuple[Path, ...], below: Stage | None
    ) -> Iterator[Lab]:
        """Yield a machine to freeze as stage ``name``: derived from the one ``below``, or booted."""
        with ExitStack() as stack:
            try:
                begun = (
                    self._lab(progress, stage=below, ram=ram)
                    if below
                    else self._boot("booted", progress, ram)
                )
                lab = stack.enter_context(begun)
            except ForkError:
                # It was thrown out a moment ago.
                lab = stack.enter_context(self._boot("booted", progress, ram))
            if name == "spawned":
                lab.pair()
            yield lab

    def _digest(self, name: StageName) -> str:
        # Once in a run: somebody may be editing the harness while it runs.
        if name not in self._digests:
            self._digests[name] = self._compute_digest(name)
        return self._digests[name]

    def _compute_digest(self, name: StageName) -> str:
        spec = machine_spec(self.build, self.topology)
        topology = msgspec.json.encode(self.topology).decode()
        return snapshot.digest_of(spec, self.accel, f"{self.build.digest} {topology} {name} {_code()}")


def _code() -> str:
    files = sorted(file for pattern in CODE for file in (paths.CHECKOUT / "harness").glob(pattern))
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()
