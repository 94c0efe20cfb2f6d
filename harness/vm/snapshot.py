# SPDX-License-Identifier: MIT
"""Machines frozen to a folder, and machines forked from it.

A stage's folder holds the guest's memory (``ram``, with holes where the guest touched nothing), the
state of everything else (``state``) and ``meta.json``. It is complete when it has its name, and
never written again: the pages that a fork has not written still come from it.
"""

from __future__ import annotations

import fcntl
import functools
import hashlib
import os
import shutil
import subprocess
import time
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import msgspec

from harness.errors import HarnessError
from harness.vm import migration
from harness.vm.accel import Accel
from harness.vm.console import History
from harness.vm.machine import QEMU, Machine
from harness.vm.memory import copy_sparse, name_ram, open_ram
from harness.vm.migration import ForkError
from harness.vm.origin import Origin
from harness.vm.spec import MachineSpec

FORMAT = 1
"""Change this when folders of stages change: then none that is there is used."""
RAM, STATE, META = "ram", "state", "meta.json"
QUIET = 0.2
"""Seconds, before scaling by the accelerator: by then an agent without a command has prepared for the
next one, which every fork has then done."""
IDLE_WAIT = 5.0
"""Seconds that an agent has to take what was sent to it, before scaling by the accelerator."""


class Meta(msgspec.Struct, frozen=True):
    """What a stage's meta.json says: all that a fork needs beside memory and state.

    ``payload`` is the caller's own, as JSON. ``checksum`` is the CRC-32 of the state.
    """

    qemu: str
    accel: str
    spec: MachineSpec
    histories: dict[str, History]
    checksum: int
    payload: msgspec.Raw


@dataclass(frozen=True)
class Stage:
    """A frozen machine on disk. Any number of machines can be forked from it at the same time."""

    folder: Path
    meta: Meta

    def fork(self, accel: Accel) -> Machine:
        """Return a machine that goes on where this one was frozen, with memory of its own.

        It is there when its ``with`` block is entered, which raises ForkError when it cannot be.
        """
        origin = Origin(self._held, self.folder / STATE, True, self.meta.histories)
        return Machine(self.meta.spec, accel, origin=origin)

    def derive(self, accel: Accel, folders: tuple[Path, ...]) -> Machine:
        """Return such a machine on a copy of the memory, in one of ``folders``; it can be frozen too."""
        copied = functools.partial(self._copied, folders)
        origin = Origin(copied, self.folder / STATE, False, self.meta.histories)
        return Machine(self.meta.spec, accel, origin=origin)

    @contextmanager
    def _held(self) -> Iterator[BinaryIO]:
        """Yield the memory's file; the stage is not removed meanwhile."""
        with holding(self.folder) as held:
            try:
                if not held:
                    raise FileNotFoundError(f"the stage {self.folder.name} was removed")
                ram = (self.folder / RAM).open("rb")
                checksum = zlib.crc32((self.folder / STATE).read_bytes())
            except OSError as error:
                raise ForkError(f"the stage {self.folder} cannot be read: {error}") from None
            with ram:
                if checksum != self.meta.checksum:
                    raise ForkError(f"the file {self.folder / STATE} was damaged")
                yield ram

    @contextmanager
    def _copied(self, folders: tuple[Path, ...]) -> Iterator[BinaryIO]:
        with self._held() as ram, open_ram(self.meta.spec.memory_mib << 20, folders) as copy:
            copy_sparse(ram, copy)
            yield copy


@contextmanager
def holding(folder: Path, *, alone: bool = False) -> Iterator[bool]:
    """Lock a stage's folder against removal; yield False when that is gone, or in use by others.

    Those who use it share the lock, and who wants to remove it needs it ``alone``. A process that
    is killed has no locks.
    """
    try:
        fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError:
        yield False
        return
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB if alone else fcntl.LOCK_SH)
        # It may have been removed, or even made again, before the lock was ours.
        held = folder.exists() and folder.stat().st_ino == os.fstat(fd).st_ino
    except BlockingIOError:
        held = False
    try:
        yield held
    finally:
        os.close(fd)


def freeze(machine: Machine, folder: Path, payload: Any = None) -> None:
    """Freeze a running machine into the existing, empty ``folder``, and end it.

    Its memory must be a file that it maps shared: a machine that was booted, or derived. Raises
    HarnessError when a command is under way in a guest, or QEMU cannot.
    """
    _wait_until_idle(machine)
    time.sleep(QUIET * machine.accel.factor)
    machine.freeze()
    machine.drain()
    histories = {name: console.history() for name, console in machine.consoles.items()}
    migration.save(machine.qmp, folder / STATE)
    name_ram(machine.ram, folder / RAM)
    machine.end()
    meta = Meta(
        qemu=qemu_version(),
        accel=machine.accel.name,
        spec=machine.spec,
        histories=histories,
        checksum=zlib.crc32((folder / STATE).read_bytes()),
        payload=msgspec.Raw(msgspec.json.encode(payload)),
    )
    (folder / META).write_bytes(msgspec.json.encode(meta, enc_hook=str))


def _wait_until_idle(machine: Machine) -> None:
    limit = time.monotonic() + IDLE_WAIT * machine.accel.factor
    while busy := [name for name, channel in machine.channels.items() if not channel.idle]:
        if time.monotonic() > limit:
            raise HarnessError(
                f"a machine cannot be frozen while a command is under way in {', '.join(busy)}",
                advice="wait for the commands to end first",
            )
        time.sleep(0.005)


def read(folder: Path) -> Stage | None:
    """Return the stage in ``folder``, or None when there is no complete one."""
    try:
        meta = msgspec.json.decode(
            (folder / META).read_bytes(), type=Meta, dec_hook=lambda kind, value: kind(value)
        )
    except (OSError, msgspec.MsgspecError):
        return None
    complete = (folder / RAM).is_file() and (folder / STATE).is_file()
    return Stage(folder, meta) if complete else None


def digest_of(spec: MachineSpec, accel: Accel, steps: str) -> str:
    """Return the name of the stage to which ``steps`` lead a machine here, with this QEMU.

    ``steps`` is anything that changes when what is done to the machine does.
    """
    files = [file.stat() for file in (spec.kernel, spec.initrd) if file is not None]
    inputs = [FORMAT, qemu_version(), accel.name, spec, steps, [(f.st_size, f.st_mtime_ns) for f in files]]
    return hashlib.sha256(msgspec.json.encode(inputs, enc_hook=str)).hexdigest()[:20]


@functools.cache
def qemu_version() -> str:
    """Return the first line of ``qemu-system-x86_64 --version``; empty when there is no QEMU."""
    qemu = shutil.which(QEMU)
    if qemu is None:
        return ""
    output = subprocess.run([qemu, "--version"], capture_output=True, check=False, text=True).stdout
    return output.partition("\n")[0]
