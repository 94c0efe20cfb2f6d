# SPDX-License-Identifier: MIT
"""A configured tree in, a compiled kernel and its modules out.

The same inputs give the same bytes: time, user, host and version number of the build are fixed,
and every path is relative. ccache is used where it is installed.
"""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from harness.build import image, kconfig, make, messages, unfinished
from harness.build.make import UNFINISHED, BuildError, Made
from harness.build.messages import Message
from harness.build.worktree import OUTPUT, remove
from harness.errors import HarnessError
from harness.progress import Step

MADE = ("*.o", "*.ko", "*.mod", "*.mod.c", ".*", "modules.order", "Module.symvers")
"""What make leaves beside a module's sources."""

COMPILED = "mkharness-compiled"
"""In a build folder: says from what the kernel in it was compiled."""

STEPS = "mkharness-steps"
"""Remembers how many commands a whole build has, for the next one's progress."""

ABOUT = 1600
"""Commands of a whole build of the definitions shipped, for the first build's progress."""

WARNINGS = ".mkharness-warnings"
"""In the build folder: the warnings of every file made, since a later build makes only some anew."""


@dataclass(frozen=True)
class Kernel:
    """What a build left: files in the build folder, the release string (``7.3.4``), what was warned of."""

    bzimage: Path
    vmlinux: Path
    config: Path
    release: str
    warnings: tuple[Message, ...]


def compiler() -> str:
    """Name compiler and linker with their versions, as a part of a build's identity."""
    names = []
    for tool in ("gcc", "ld"):
        try:
            said = subprocess.run([tool, "--version"], capture_output=True, text=True, check=True).stdout
        except (OSError, subprocess.CalledProcessError):
            raise HarnessError(f"{tool} does not run", advice="run `make setup`") from None
        names.append(said.splitlines()[0])
    return ", ".join(names)


def compile_kernel(
    tree: Path, wishes: Sequence[kconfig.Wish], log: Path, step: Step, *, variables: Sequence[str] = ()
) -> Kernel:
    """Configure and compile a tree; its earlier build folder is used as far as it goes.

    ``log`` gets everything that make prints; make gets ``variables`` (``NAME=VALUE``). Raises
    HarnessError with the compiler's messages.
    """
    output = tree / OUTPUT
    gone = unfinished.discard(output, keep=WARNINGS)
    if gone:
        step.update(f"removed {gone:,} files that a killed build left")
    fresh = not (output / "vmlinux").exists()
    output.mkdir(exist_ok=True)
    unfinished.begin(output)
    step.update("configuring")
    log.write_text(kconfig.configure(tree, output, wishes, make.command(tree), make.environment()))
    _remember(output, Made(("",), tuple(messages.read(log.read_text().splitlines())), 0))
    targets = [*variables, "bzImage"]
    if kconfig.values(output / ".config").get("MODULES") == "y":
        targets.append("modules")
    try:
        made = make.run(tree, targets, log, step, expected=_expected(tree.parent) if fresh else 0)
    except BuildError as error:
        _remember(output, error.made)
        raise
    _remember(output, made)
    require_packed(tree)
    if fresh:
        (tree.parent / STEPS).write_text(str(made.steps))
    step.done(f"{made.steps:,} steps, {made.cpu / 60:.1f} CPU-min")
    return outputs(tree)


def require_packed(tree: Path) -> None:
    """Raise HarnessError, and remove the build folder, when its bzImage was not packed from its vmlinux.

    What boots is the image; what is shown and judged by are the vmlinux's symbols.
    """
    made = outputs(tree)
    if not image.carries(image.read_image(made.bzimage), made.vmlinux.read_bytes()):
        remove(tree / OUTPUT)
        raise HarnessError(
            "make left a bzImage that was not packed from the vmlinux beside it",
            advice="build it again: the build folder was removed, so all is made anew",
        )


def outputs(tree: Path) -> Kernel:
    """Return the files of a tree that was compiled before."""
    output = tree / OUTPUT
    return Kernel(
        bzimage=output / "arch/x86/boot/bzImage",
        vmlinux=output / "vmlinux",
        config=output / ".config",
        release=(output / "include/config/kernel.release").read_text().strip(),
        warnings=tuple(dict.fromkeys(message for said in _warnings(output).values() for message in said)),
    )


def compile_modules(tree: Path, modules: Sequence[Path], dialect: str, log: Path, step: Step) -> list[Path]:
    """Compile the guest modules in the folders ``modules`` against a compiled tree; return the .ko files.

    The sources are copied, so nothing is written beside them; what did not change is not compiled
    again. One make does all, since each takes half a second to find out that there is nothing to do.
    """
    folder = tree.parent / "modules"
    if (folder / UNFINISHED).exists():
        remove(folder)
    folder.mkdir(exist_ok=True)
    for module in modules:
        if not (module / "Kbuild").is_file() and not (module / "Makefile").is_file():
            raise HarnessError(
                f"there is no guest module {module}", advice="correct `modules` in the definition"
            )
        # What changed gets the present time, which make goes by.
        command = ["rsync", "-rlp", "--checksum", "--delete", *(f"--exclude={name}" for name in MADE)]
        subprocess.run([*command, f"{module}/", f"{folder / module.name}/"], check=True, capture_output=True)
    if not modules:
        return []
    (folder / "Kbuild").write_text("".join(f"obj-m += {module.name}/\n" for module in modules))
    targets = [f"M={folder}", f"MKMSG_API={dialect}", "modules"]
    make.run(tree, targets, log, step, marker=folder / UNFINISHED, what="a guest module")
    return [folder / module.name / f"{module.name}.ko" for module in modules]


def _remember(output: Path, made: Made) -> None:
    """Replace the warnings of the files that were made."""
    kept = {target: said for target, said in _warnings(output).items() if target not in made.targets}
    for message in made.messages:
        if message.kind == "warning":
            kept.setdefault(message.target, []).append(message)
    (output / WARNINGS).write_bytes(msgspec.json.encode(kept))


def _warnings(output: Path) -> dict[str, list[Message]]:
    with contextlib.suppress(OSError, msgspec.DecodeError):
        return msgspec.json.decode((output / WARNINGS).read_bytes(), type=dict[str, list[Message]])
    return {}


def _expected(folder: Path) -> int:
    """Return how many steps a whole build had last time."""
    try:
        return int((folder / STEPS).read_text())
    except (OSError, ValueError):
        return ABOUT
