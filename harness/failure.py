# SPDX-License-Identifier: MIT
"""Kept failures: what is left of a machine whose test failed, a folder for each.

    failures/20261122-203015-stopping-test_stops-deaf_kernel-spin/
        failure.json  explanation.txt  console-NAME.log  consoles.txt  map.txt  vcpus.txt  memory.vmcore

They are in the cache, the newest NUMBER of them and at most SIZE bytes; older ones are removed when
one is kept. A folder appears under its name only when complete, so a kill leaves nothing half done.
"""

from __future__ import annotations

import os
import re
import shutil
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path

import msgspec

from harness import paths
from harness.errors import HarnessError, UsageError

NUMBER = 40
SIZE = 4 << 30
"""Kept failures, and their bytes together."""
FILE_SIZE = 4 << 20
"""Bytes of a text file; of a longer one the beginning is left out."""
FREE = 2 << 30
"""Bytes that must be free on the disk for a machine's memory to be kept."""
NAME_LENGTH = 90
"""Characters of a name."""
JSON, EXPLANATION, CONSOLES, MAP, VCPUS, MEMORY = (
    "failure.json",
    "explanation.txt",
    "consoles.txt",
    "map.txt",
    "vcpus.txt",
    "memory.vmcore",
)
_NEW = ".new"
_DIRECTION = "give a name, the beginning of one, or `last`"


class Kernel(msgspec.Struct, frozen=True):
    """A kernel of the machine: its console's name, and its build's ``vmlinux`` where that is at hand.

    ``text`` is the address of its code where that is not vmlinux' own (KASLR, a spawned kernel), else 0.
    """

    name: str
    release: str = ""
    digest: str = ""
    vmlinux: str = ""
    text: int = 0


class Failure(msgspec.Struct, frozen=True, tag_field="format", tag="mkharness-failure-1"):
    """A failing test: which (pytest's node id), when (``ended``, seconds since 1970), on what.

    ``why`` is one line, ``explanation`` the whole text as printed. ``kernel`` and ``options`` choose
    the build, as on the command line; ``source_tree`` is what that was made of, in words. ``commands``
    repeat the test or reopen the failure, by purpose. ``name`` is set by ``keep``.
    """

    test: str
    ended: float
    why: str
    phase: str = "call"
    claim: str = ""
    source: str = ""
    area: str = ""
    name: str = ""
    kernel: str = ""
    options: tuple[str, ...] = ()
    digest: str = ""
    release: str = ""
    series: str = ""
    source_tree: str = ""
    topology: str = ""
    accel: str = ""
    seed: str = ""
    qemu: str = ""
    machine: str = ""
    """What became of the machine, in words: it runs, or why it ended."""
    kernels: tuple[Kernel, ...] = ()
    explanation: str = ""
    commands: dict[str, str] = {}

    @property
    def folder(self) -> Path:
        """Where it is kept."""
        return folder() / self.name

    @property
    def memory(self) -> Path | None:
        """The core file of the machine's memory, None where it was not kept."""
        file = self.folder / MEMORY
        return file if file.is_file() else None

    def text(self, file: str) -> str:
        """Return one of its text files, empty where there is none of that name."""
        try:
            return (self.folder / file).read_text(encoding="utf-8", errors="replace")
        except OSError:
            return ""

    def console(self, kernel: str) -> str:
        """Return what a kernel had printed, control characters included."""
        return self.text(console_file(kernel))


def folder() -> Path:
    """Return the folder of all kept failures."""
    return paths.cache() / "failures"


def console_file(kernel: str) -> str:
    """Return the name of the file that holds a kernel's console."""
    return f"console-{kernel}.log"


def name_of(test: str, ended: float) -> str:
    """Return a failure's name: sortable by time, with what of the test's node id can be typed."""
    path, _, case = test.partition("::")
    path = path.removeprefix("tests/").removeprefix("conformance/").removesuffix(".py")
    words = re.sub(r"[^A-Za-z0-9_.]+", "-", f"{path}-{case}").strip("-.")
    stamp = time.strftime("%Y%m%d-%H%M%S", time.localtime(ended))
    return f"{stamp}-{words}"[:NAME_LENGTH].rstrip("-.")


def keep(
    failure: Failure, files: Mapping[str, str | bytes], *, memory: Callable[[Path], None] | None = None
) -> Failure:
    """Keep a failure with text ``files``; return it with its name. Old ones are removed for it.

    ``memory`` writes the machine's memory to a path; it is left out where the disk is too full or
    that fails. Raises HarnessError where nothing can be written.
    """
    place = folder()
    new = place / f"{os.getpid()}{_NEW}"
    try:
        shutil.rmtree(new, ignore_errors=True)
        new.mkdir(parents=True)
        for file, content in files.items():
            data = content.encode("utf-8", "replace") if isinstance(content, str) else content
            (new / file).write_bytes(_clipped(data))
        if memory is not None and shutil.disk_usage(place).free > FREE:
            _write_memory(memory, new / MEMORY)
        failure = _named(failure, new)
    except OSError as error:
        shutil.rmtree(new, ignore_errors=True)
        raise HarnessError(
            f"the failure cannot be kept in {place}: {error.strerror}",
            advice="is the disk full? MKHARNESS_CACHE names another cache folder",
        ) from None
    _remove_old(failure.name)
    return failure


def all() -> tuple[Failure, ...]:
    """Return all kept failures, the oldest first; a damaged one is passed over."""
    found = []
    for place in _folders():
        with suppress(OSError, msgspec.MsgspecError):
            found.append(_read(place))
    return tuple(found)


def find(name: str) -> Failure:
    """Return a kept failure by its name, the beginning or a part of it that no other has, or ``last``.

    Raises UsageError when there is none, or several.
    """
    names = [place.name for place in _folders()]
    if not names:
        raise UsageError(
            f"there is no kept failure in {folder()}",
            advice="a test with a machine that fails leaves one",
        )
    hits = names[-1:] if name == "last" else [one for one in names if one == name]
    hits = hits or [one for one in names if one.startswith(name)] or [one for one in names if name in one]
    if len(hits) == 1:
        try:
            return _read(folder() / hits[0])
        except (OSError, msgspec.MsgspecError) as error:
            raise UsageError(f"the kept failure {hits[0]} is damaged: {error}", advice=_DIRECTION) from None
    what = f"{name!r} names {len(hits)} kept failures" if hits else f"there is no kept failure {name!r}"
    shown = (hits or names)[-10:]
    title = f"The {len(shown)} newest:" if len(shown) < len(hits or names) else "There are:"
    raise UsageError(what, details="\n".join([title, *shown]), advice=_DIRECTION)


def _folders() -> list[Path]:
    try:
        places = sorted(folder().iterdir())
    except OSError:
        return []
    return [place for place in places if place.suffix != _NEW and (place / JSON).is_file()]


def _read(place: Path) -> Failure:
    failure = msgspec.json.decode((place / JSON).read_bytes(), type=Failure)
    # A folder that somebody has renamed goes by its new name.
    return msgspec.structs.replace(failure, name=place.name)


def _clipped(data: bytes) -> bytes:
    if len(data) <= FILE_SIZE:
        return data
    note = f"[... {len(data) - FILE_SIZE:,} bytes left out ...]\n".encode()
    return note + data[-FILE_SIZE:]


def _write_memory(write: Callable[[Path], None], file: Path) -> None:
    try:
        write(file)
    except (HarnessError, OSError) as error:
        file.unlink(missing_ok=True)
        file.with_name("memory.txt").write_text(f"The memory was not kept: {error}\n")


def _named(failure: Failure, new: Path) -> Failure:
    """Give the complete folder its name; another worker's test may have failed in the same second."""
    base = failure.name or name_of(failure.test, failure.ended)
    for name in (base, *(f"{base}.{number}" for number in range(2, 1000))):
        named = msgspec.structs.replace(failure, name=name)
        (new / JSON).write_bytes(msgspec.json.format(msgspec.json.encode(named), indent=1))
        with suppress(FileExistsError):
            (folder() / name).mkdir()
            # Nobody else takes a name that is there, and an empty folder may be replaced.
            new.rename(folder() / name)
            return named
    raise OSError(0, f"there are too many of the name {base}")


def _remove_old(spared: str) -> None:
    """Remove the oldest until limits are kept, but never the one that was kept just now."""
    for place in folder().glob(f"*{_NEW}"):
        if not Path(f"/proc/{place.stem}").exists():
            shutil.rmtree(place, ignore_errors=True)
    room, number = SIZE, 0
    for place in reversed(_folders()):
        number, room = number + 1, room - _size(place)
        if (number > NUMBER or room < 0) and place.name != spared:
            shutil.rmtree(place, ignore_errors=True)


def _size(place: Path) -> int:
    total = 0
    with suppress(OSError):
        for file in place.iterdir():
            total += file.stat().st_blocks * 512
    return total
