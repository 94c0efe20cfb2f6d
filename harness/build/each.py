# SPDX-License-Identifier: MIT
"""Building after every patch of a series, to find the first that breaks the build.

The tree is the one that `mkh build` of the definition uses, so make compiles only what a patch
changes; when all is done it is the whole series' tree again. Nothing goes into the store.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path

import msgspec

from harness import paths
from harness.build import kconfig, kernel, messages, own_series, source, store, worktree
from harness.build import series as patches
from harness.build.apply import apply_series, refuse
from harness.build.inputs import check_space
from harness.definition import Base, Definition, on_base
from harness.errors import HarnessError
from harness.progress import Progress

_SYMBOL = re.compile(rb"^\s*(?:menu)?config\s+(\w+)", re.MULTILINE)


class Built(msgspec.Struct, frozen=True):
    """One state of the tree that builds: after which patch ("" is the base), seconds, new warnings."""

    patch: str
    subject: str
    seconds: float
    warnings: list[str]


def build_each(
    definition: Definition, progress: Progress, *, series: str | Path | None = None, base: Base | None = None
) -> list[Built]:
    """Build a definition's base, and then after each patch of its series.

    Raises HarnessError naming the first patch after which the tree does not build, with the
    compiler's messages; or the patch that does not apply, before anything is built.
    """
    kconfig.read_fragments(definition.configs)
    pristine = source.obtain((base,) if base is not None else definition.bases, progress)
    wishes = kconfig.read_fragments(on_base(definition, pristine.base).configs)
    chosen = patches.read(series if series is not None else own_series(definition, pristine.tree), progress)
    refuse(apply_series(pristine, chosen, definition.fuzz))
    folder = paths.cache() / "work" / (definition.name or "unnamed")
    built: list[Built] = []
    seen: set[str] = set()
    with store.build_lock(progress):
        check_space(source.BUILD_SPACE)
        for count in range(len(chosen.patches) + 1):
            part = msgspec.structs.replace(chosen, patches=chosen.patches[:count])
            applied = apply_series(pristine, part, definition.fuzz)
            last = (
                part.patches[-1] if count else patches.Patch("", f"without patches: {pristine.version}", b"")
            )
            with progress.step(f"{count}/{len(chosen.patches)} {last.subject}") as step:
                tree = worktree.prepare(applied, folder, Progress(Progress.quiet_console()))
                # What `mkh build` says of this tree is no longer so.
                (tree / worktree.OUTPUT / kernel.COMPILED).unlink(missing_ok=True)
                asked = wishes if part == chosen else _known(wishes, tree)
                log = folder / "build.log"
                try:
                    kernel.compile_kernel(tree, asked, log, step)
                except HarnessError as error:
                    raise _broken(last, count, len(chosen.patches), error) from error
                new = [text for text in _warnings(log) if text not in seen]
                seen.update(new)
                if count:
                    step.done(f"{step.result}, {len(new)} new warnings")
                    for text in new:
                        progress.console.print(f"  new warning: {text}", markup=False)
            built.append(Built(last.name, last.subject, round(step.elapsed, 1), new if count else []))
    return built


def _broken(patch: patches.Patch, count: int, total: int, error: HarnessError) -> HarnessError:
    if not count:
        what, advice = "the base does not build without the series", "choose another base, or configuration"
    else:
        what = f"patch {count} of {total} breaks the build: {patch.name} ({patch.subject})"
        advice = f"correct that patch; with the {count - 1} before it the kernel builds"
    return HarnessError(what, details=f"{error.what}\n{error.details}".rstrip(), advice=advice)


def _known(wishes: Sequence[kconfig.Wish], tree: Path) -> list[kconfig.Wish]:
    """Return the wishes for symbols that a tree has; later patches bring the others."""
    symbols: set[bytes] = set()
    for at, folders, names in os.walk(tree):
        folders[:] = [name for name in folders if name not in ("Documentation", worktree.OUTPUT)]
        for name in names:
            if name.startswith("Kconfig"):
                symbols.update(_SYMBOL.findall(Path(at, name).read_bytes()))
    return [wish for wish in wishes if wish.symbol.encode() in symbols]


def _warnings(log: Path) -> list[str]:
    """Return the warnings in a build log, without the line numbers, which later patches move."""
    found = messages.read(log.read_text(errors="replace").splitlines())
    named = ((one.file or one.target, one.text) for one in found if one.kind == "warning")
    return list(dict.fromkeys(f"{file}: {text}" if file else text for file, text in named))
