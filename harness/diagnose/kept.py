# SPDX-License-Identifier: MIT
"""What of a failing machine goes into the failure's folder, and the commands that go on from there."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import msgspec

from harness import failure
from harness.build import store
from harness.diagnose.images import Image, image_of
from harness.diagnose.told import Told
from harness.diagnose.vcpus import layout_of, still
from harness.errors import HarnessError
from harness.failure import Failure, Kernel
from harness.lab import Lab
from harness.multikernel.layout import HOST
from harness.report.repeat import command
from harness.vm.ram import ram_of
from harness.vm.ram_pages import PAGE
from harness.vm.registers import registers_of
from harness.vm.vmcore import find_vmcoreinfo, write_vmcore

MEMORY_MAX = 768 << 20
"""Bytes of a machine's touched memory that are kept."""
MEMORIES = 3
"""Machines whose memory one process keeps: where everything fails, the first ones tell enough."""
STEPS = "steps.json"

_kept = 0


def failure_of(lab: Lab, told: Told) -> Failure:
    """Return what is known of a failure before it is explained and has a name."""
    build = lab.build
    ended = time.time()
    name = failure.name_of(told.test, ended)
    return Failure(
        test=told.test,
        ended=ended,
        name=name,
        why=told.why,
        phase=told.phase,
        claim=told.claim,
        source=told.source,
        area=told.area,
        kernel=told.kernel,
        options=told.options,
        digest=build.digest,
        release=build.version,
        series=_series(build.folder),
        source_tree=build.source,
        topology=lab.topology.name,
        accel=lab.accel.name,
        qemu=lab.machine.command_line,
        machine=lab.machine.ended() or f"it is {lab.machine.state.value}",
        kernels=tuple(_kernel(image_of(lab, name)) for name in lab.machine.consoles),
        commands={
            "repeat it": command(told.test, told.options, build.digest),
            "look into it": f".venv/bin/mkh debug {name}",
            "as text to mail": f".venv/bin/mkh reproduce {name}",
        },
    )


def keep(lab: Lab, about: Failure, files: dict[str, str | bytes], *, listens: bool) -> Failure:
    """Write the folder; return the failure with the name that it got. Raises HarnessError.

    Without a QEMU that ``listens`` there is no memory.
    """
    global _kept  # noqa: PLW0603
    for name, console in lab.machine.consoles.items():
        files[failure.console_file(name)] = console.transcript[-failure.FILE_SIZE :]
    files[STEPS] = msgspec.json.encode(list(lab.machine.steps))
    files[failure.EXPLANATION] = about.explanation
    memory: Callable[[Path], None] | None = None
    if _kept < MEMORIES and listens:
        _kept += 1
        memory = _memory_of(lab)
    return failure.keep(about, files, memory=memory)


def _memory_of(lab: Lab) -> Callable[[Path], None]:
    def write(file: Path) -> None:
        with still(lab):
            ram = ram_of(lab.machine)
            size = len(ram.touched()) * PAGE
            if size > MEMORY_MAX:
                raise HarnessError(f"{size >> 20} MiB of it were touched, more than {MEMORY_MAX >> 20}")
            host = next(owner for owner in layout_of(lab).owners if owner.name == HOST)
            infos = find_vmcoreinfo(ram, host.memory)
            write_vmcore(ram, registers_of(lab.machine.qmp), file, infos[0] if infos else None)

    return write


def _kernel(image: Image) -> Kernel:
    there = image.vmlinux.is_file()
    return Kernel(
        image.kernel,
        image.release,
        image.digest,
        str(image.vmlinux) if there else "",
        image.text[0] if there and image.offset else 0,
    )


def _series(folder: Path) -> str:
    try:
        meta = store.read_meta(folder)
    except (OSError, msgspec.MsgspecError):
        return ""
    return meta.inputs.get("series", "") if meta.patches else ""
