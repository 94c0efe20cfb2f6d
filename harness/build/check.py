# SPDX-License-Identifier: MIT
"""What the kernel's own checkers say about a series: checkpatch of its patches, sparse of its code."""

from __future__ import annotations

import difflib
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterable
from pathlib import Path

import msgspec

from harness import paths
from harness.build import kconfig, make, messages, store, worktree
from harness.build.apply import Applied
from harness.build.series import Patch
from harness.definition import Definition
from harness.errors import HarnessError, UsageError
from harness.progress import Progress

SPARSE = "CHECK=sparse -D__typeof_unqual__=__typeof__"
"""sparse 0.6.4, which Debian has, lacks a keyword without which Linux 7 refuses to run it. The kernel's
code meets the keyword only where gcc has it, from 14 on."""

_TOLD = re.compile(r"(?P<file>\S*?):(?P<line>\d+): (?P<kind>ERROR|WARNING|CHECK): ?(?P<text>.*)")


class Remark(msgspec.Struct, frozen=True):
    """One thing that a checker names: in which patch ("" for sparse), file and line, and what."""

    tool: str
    patch: str
    file: str
    line: int
    text: str

    def __str__(self) -> str:
        place = f"{self.file}:{self.line}" if self.file else "commit message"
        return f"{self.tool}: {self.patch + ': ' if self.patch else ''}{place}: {self.text}"


def checkpatch(tree: Path, patches: Iterable[Patch], progress: Progress) -> list[Remark]:
    """Run the tree's own checkpatch over each patch."""
    script = tree / "scripts/checkpatch.pl"
    if not script.is_file():
        raise HarnessError(f"{tree} has no scripts/checkpatch.pl", advice="choose another base with --base")
    command = ["perl", str(script), f"--root={tree}", "--terse", "--showfile", "--no-summary"]
    remarks: list[Remark] = []
    with progress.step("checkpatch") as step, tempfile.TemporaryDirectory() as folder:
        for patch in patches:
            step.update(patch.subject)
            file = Path(folder) / "patch"
            # The head that a mail or a file had, from which checkpatch takes the author.
            head = f"From: {patch.author}\nSubject: {patch.subject}\n\n" if patch.author else ""
            file.write_bytes(head.encode() + patch.text)
            result = subprocess.run(
                [*command, str(file)], capture_output=True, text=True, errors="replace", check=False
            )
            if result.returncode not in (0, 1):
                raise HarnessError(
                    "checkpatch does not run", details=result.stderr[-1000:], advice="install perl"
                )
            for found in filter(None, map(_TOLD.match, result.stdout.splitlines())):
                # What is not about a line of a file has the patch's own name.
                own = found["file"] in ("", str(file))
                text = f"{found['kind'].lower()}: {found['text']}"
                remarks.append(
                    Remark("checkpatch", patch.name, "" if own else found["file"], int(found["line"]), text)
                )
        step.done(f"{len(remarks)} remarks")
    return remarks


def sparse(definition: Definition, applied: Applied, progress: Progress) -> list[Remark]:
    """Run sparse over the C files that a series touches and the configuration compiles.

    Only what it says about lines that the series adds or changes is returned.
    """
    if shutil.which("sparse") is None:
        raise UsageError("sparse is not installed", advice="install Debian's package: apt install sparse")
    folder = paths.cache() / "work" / (definition.name or "unnamed")
    with store.build_lock(progress):
        tree = worktree.prepare(applied, folder, progress)
        with progress.step("sparse") as step:
            output = tree / worktree.OUTPUT
            if not (output / "vmlinux").is_file():
                raise UsageError(
                    f"sparse needs {definition.name} compiled once",
                    advice="run `mkh build` with the same kernel, series and base first",
                )
            wishes = kconfig.read_fragments(definition.configs)
            kconfig.configure(tree, output, wishes, make.command(tree), make.environment())
            # What the configuration leaves out cannot be compiled by itself.
            objects = [f"{file[:-2]}.o" for file, now in applied.files.items() if now and file.endswith(".c")]
            units = sorted(unit for unit in objects if (output / unit).is_file())
            log = folder / "sparse.log"
            log.unlink(missing_ok=True)
            made = make.run(tree, ["C=2", SPARSE, *units], log, step, what="a file for sparse")
            if units and "  CHECK " not in log.read_text(errors="replace"):
                raise HarnessError(
                    f"the kernel's Makefile does not run this sparse; see {log}",
                    advice="install a newer sparse",
                )
            remarks = new_remarks(made.messages, applied.source.tree, tree, applied.files)
            step.done(f"{len(units)} files, {len(remarks)} remarks on lines of the series")
    return remarks


def new_remarks(
    found: Iterable[messages.Message], old: Path, new: Path, touched: Iterable[str]
) -> list[Remark]:
    """Return what was said about lines that are in the tree ``new`` and not in the tree ``old``."""
    added = {file: added_lines(old / file, new / file) for file in touched}
    return [
        Remark("sparse", "", message.file, message.line, message.text)
        for message in dict.fromkeys(found)
        if message.line in added.get(message.file, ())
    ]


def added_lines(old: Path, new: Path) -> set[int]:
    """Return the numbers of the lines, from 1, that ``new`` has and ``old`` has not."""
    before, after = _lines(old), _lines(new)
    matcher = difflib.SequenceMatcher(None, before, after, autojunk=False)
    changes = (code for code in matcher.get_opcodes() if code[0] in ("insert", "replace"))
    return {number + 1 for _, _, _, start, end in changes for number in range(start, end)}


def _lines(file: Path) -> list[bytes]:
    return file.read_bytes().splitlines() if file.is_file() else []
