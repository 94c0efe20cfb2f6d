# SPDX-License-Identifier: MIT
"""File and line of ``function+0x12``, in a kernel that was built without debugging information, too.

Without it, the object that has the function is compiled once more from the build's tree, with line
numbers and into a temporary file: that changes no code, and of a function whose size is not that in
vmlinux nothing is told. The tree is there until another build of its definition is made; by that
one's sources a place is marked with ABOUT.
"""

from __future__ import annotations

import filecmp
import re
import shlex
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from functools import cached_property
from pathlib import Path

from elftools.elf.elffile import ELFFile

from harness import paths
from harness.build.worktree import OUTPUT
from harness.diagnose.images import Image
from harness.errors import HarnessError

SECONDS = 20.0
"""How long all of one failure's places may take together; those that are left over go without."""
ABOUT = "~"
"""Before a place that is by the sources of another build: lines before it may be more or fewer there."""
PADDING = 32
"""A splat's size of a function counts what stands between it and the next."""
_COMMAND = re.compile(
    r"^(?:saved)?cmd_\S+ := (?:ccache )?(?P<command>gcc [^;]*?-c [^;]*?)(?: ;.*)?$", re.MULTILINE
)


class Places:
    """Finds places in one kernel's code. Nothing of it raises: what cannot be found is an empty text."""

    def __init__(self, image: Image) -> None:
        self._image = image
        self._give_up = time.monotonic() + SECONDS
        self._folder = tempfile.TemporaryDirectory(prefix="mkharness-")
        self._objects: dict[Path, Path | None] = {}
        self._known: dict[tuple[str, int, int, str], str] = {}

    def close(self) -> None:
        """Remove what was made."""
        self._folder.cleanup()

    def of(self, function: str, inside: int, size: int, module: str = "") -> str:
        """Return ``file:line`` of a place in a function of that size, as a splat tells it."""
        key = (function, inside, size, module)
        if key not in self._known:
            self._known[key] = ""
            with suppress(HarnessError, OSError, ValueError, subprocess.SubprocessError):
                self._known[key] = self._find(*key)
        return self._known[key]

    def _find(self, function: str, inside: int, size: int, module: str) -> str:
        symbols = self._image.symbols
        known = [] if module or symbols is None else symbols.functions(function)
        known = [one for one in known if 0 <= size - one[1] < PADDING]
        if known and self._has_lines:
            return self._line(self._image.vmlinux, "", known[0][0] + inside)
        lengths = {one[1] for one in known} if not module else set(range(size - PADDING + 1, size + 1))
        for source in self._sources(function, module):
            made = self._compiled(source)
            if made is None:
                continue
            for section, value, length in _functions(made, function):
                if length in lengths:
                    return self._mark + self._line(made, section, value + inside)
        return ""

    @cached_property
    def _has_lines(self) -> bool:
        with self._image.vmlinux.open("rb") as file:
            return ELFFile(file).get_section_by_name(".debug_line") is not None

    @cached_property
    def _tree(self) -> Path | None:
        """Return the folder in which this kernel was compiled, or another of its definition."""
        output = paths.cache() / "work" / self._image.definition / "linux" / OUTPUT
        return output if (output / "vmlinux.a").is_file() else None

    @cached_property
    def _mark(self) -> str:
        made = self._tree / "vmlinux" if self._tree else None
        same = made is not None and made.is_file() and filecmp.cmp(made, self._image.vmlinux, shallow=False)
        return "" if same else ABOUT

    @cached_property
    def _owners(self) -> dict[str, list[str]]:
        """Return the object files that have a function, by its name."""
        assert self._tree is not None
        listed = self._run(["nm", "-A", "--defined-only", "vmlinux.a"], self._tree)
        owners: dict[str, list[str]] = {}
        for line in listed.splitlines():
            where, kind, name = line.rsplit(maxsplit=2)
            if kind in "tTwW":
                owners.setdefault(name, []).append(where.split(":")[1])
        return owners

    def _sources(self, function: str, module: str) -> Iterator[Path]:
        if self._tree is None:
            return
        if module:
            folder = self._tree.parent.parent / "modules" / module
            yield from sorted(file for file in folder.glob("*.o") if not file.name.endswith(".mod.o"))
        else:
            yield from (self._tree / name for name in self._owners.get(function, ()))

    def _compiled(self, source: Path) -> Path | None:
        """Return an object compiled with line numbers, None where it cannot be."""
        if source not in self._objects:
            self._objects[source] = None
            text = source.with_name(f".{source.name}.cmd").read_text(encoding="utf-8", errors="replace")
            found = _COMMAND.search(text)
            if found is not None:
                made = Path(self._folder.name) / f"{len(self._objects)}.o"
                words = [word for word in shlex.split(found["command"]) if not word.startswith("-Wp,-M")]
                words[words.index("-o") + 1] = str(made)
                assert self._tree is not None
                # Before 6.13 modules were compiled in the kernel's folder, too.
                inside = source.is_relative_to(self._tree) or "-I../include" in words
                self._run([*words, "-g1", "-w"], self._tree if inside else source.parent.parent)
                self._objects[source] = made
        return self._objects[source]

    def _line(self, file: Path, section: str, address: int) -> str:
        where = ["-j", section] if section else []
        told = self._run(["addr2line", "-i", "-e", str(file), *where, f"{address:#x}"], Path("/"))
        lines = [line.split(" (")[0] for line in told.splitlines() if not line.startswith("?")]
        # Inlined functions come first, the one that the splat names last.
        known = list(dict.fromkeys(self._short(line) for line in lines if not line.endswith(":?")))
        return " in ".join([one for one in known if ".c:" in one] or known)

    def _short(self, line: str) -> str:
        """Return a place without the folder in which the tree is."""
        path = line.partition(":")[0]
        for root in (f"{OUTPUT}/", "/linux/", "/modules/"):
            if root in path:
                return line.rpartition(root)[2].removeprefix("../")
        return line.removeprefix("../")

    def _run(self, command: list[str], folder: Path) -> str:
        left = self._give_up - time.monotonic()
        if left <= 0:
            raise HarnessError("there is no time left")
        done = subprocess.run(command, cwd=folder, capture_output=True, timeout=left, check=True)
        return done.stdout.decode("utf-8", "replace")


def _functions(file: Path, name: str) -> Iterator[tuple[str, int, int]]:
    """Yield section, address in it and size of each function of a name in an object."""
    with file.open("rb") as opened:
        elf = ELFFile(opened)
        table = elf.get_section_by_name(".symtab")
        for symbol in table.get_symbol_by_name(name) or ():  # type: ignore[union-attr]
            if symbol["st_info"]["type"] == "STT_FUNC" and isinstance(symbol["st_shndx"], int):
                section = elf.get_section(symbol["st_shndx"]).name
                yield section, symbol["st_value"], symbol["st_size"]
