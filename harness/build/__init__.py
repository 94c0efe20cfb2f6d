# SPDX-License-Identifier: MIT
"""A kernel definition in, a bootable kernel out.

    build(load_definition("reference"), Progress()) -> Build

obtains the source, applies the series, merges the configuration, compiles kernel and modules,
and packs the guests' user space; or finds all that in the store, in a fraction of a second.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from harness import paths
from harness.build import (
    clean,
    coverage,
    extra,
    initramfs,
    kconfig,
    kernel,
    make,
    messages,
    payload,
    source,
    sshd,
    store,
    worktree,
)
from harness.build import series as patches
from harness.build.apply import Applied, apply_series, refuse
from harness.build.folder import kernel_version
from harness.build.guest import guest_inputs
from harness.build.inputs import check_space
from harness.build.report import PatchReport, lines
from harness.build.source import parse_base
from harness.definition import Base, Definition, load_definition, on_base
from harness.errors import HarnessError, UsageError
from harness.progress import Progress

__all__ = ["Build", "build", "own_series", "parse_base"]

RECIPE = "1"
"""Change this when the same inputs shall give another result: then nothing stored is used."""

ELF_DIALECTS = ("v1", "tree")
"""Dialects that load vmlinux, not bzImage; their host's archive holds it."""


@dataclass(frozen=True)
class Build:
    """A kernel ready to boot, and where its files are. ``version`` is its release, as uname says.

    ``vmlinux`` has the symbols; ``initrd`` is for a spawned kernel, ``host_initrd`` for the host;
    ``apply_report`` tells how each patch applied. ``reused`` says that nothing had to be built.
    """

    definition: Definition
    digest: str
    version: str
    folder: Path
    source: str
    reused: bool

    @property
    def bzimage(self) -> Path:
        """The kernel that QEMU boots and the host spawns."""
        return self.folder / "bzImage"

    @property
    def vmlinux(self) -> Path:
        """The kernel as ELF with symbols."""
        return self.folder / "vmlinux"

    @property
    def config(self) -> Path:
        """The whole configuration."""
        return self.folder / "config"

    @property
    def hz(self) -> int | None:
        """Ticks of a second (CONFIG_HZ), or None of an image that does not tell its configuration."""
        hz = kconfig.values(self.config).get("HZ")
        return int(hz) if hz else None

    @property
    def initrd(self) -> Path:
        """The user space that every guest boots from."""
        return self.folder / "initrd.cpio"

    @property
    def host_initrd(self) -> Path:
        """The host's user space: ``initrd`` and the kernel to spawn in /boot."""
        return self.folder / "host-initrd.cpio"

    @property
    def spawned_version(self) -> str:
        """The release of the kernel that the host spawns: the same, unless the definition names another's."""
        return store.read_meta(self.folder).spawned_release or self.version

    @property
    def spawned_vmlinux(self) -> Path:
        """The kernel that the host spawns as ELF with symbols; another's may be gone from the store."""
        other = store.read_meta(self.folder).inputs.get("spawned kernel")
        return store.folder() / other / "vmlinux" if other else self.vmlinux

    @property
    def warnings(self) -> messages.Warnings:
        """What compiler, linker, modpost, objtool and Kconfig warned of when this was built."""
        return msgspec.json.decode((self.folder / store.WARNINGS).read_bytes(), type=messages.Warnings)

    @property
    def apply_report(self) -> tuple[PatchReport, ...]:
        """What became of every patch of the series."""
        report = (self.folder / store.REPORT).read_bytes()
        return msgspec.json.decode(report, type=tuple[PatchReport, ...])


def build(
    definition: Definition,
    progress: Progress,
    *,
    series: str | Path | None = None,
    base: Base | None = None,
    refresh: bool = False,
) -> Build:
    """Build a definition, or find the same build in the store, where it stays while this process lives.

    ``series`` and ``base`` replace the definition's own, and those of the kernel that it spawns;
    ``refresh`` looks for newer source. Raises HarnessError saying what failed and what to do: no source,
    a hunk that does not apply, a symbol not granted, code that does not compile, no room. Safe to run
    several times at once, and to kill.
    """
    try:
        built = _build(definition, progress, series, base, refresh)
        for line in built.warnings.lines():
            progress.console.print(line, style="yellow", markup=False, soft_wrap=True)
        return built
    except OSError as error:
        raise HarnessError(
            f"the build of {definition.name} failed: {error}",
            advice=f"check that {paths.cache()} can be written and has room, or set MKHARNESS_CACHE",
        ) from error


def applied_series(
    definition: Definition, progress: Progress, *, series: str | Path | None = None, base: Base | None = None
) -> Applied:
    """Return a definition's source with its series, applied in memory; raises as ``build`` does."""
    pristine = source.obtain((base,) if base is not None else definition.bases, progress)
    place = series if series is not None else own_series(definition, pristine.tree)
    applied = apply_series(pristine, patches.read(place, progress), definition.fuzz)
    refuse(applied)
    return applied


def _build(
    definition: Definition, progress: Progress, series: str | Path | None, base: Base | None, refresh: bool
) -> Build:
    _require_given(definition, series, base)
    started = time.time()
    # What is wrong with fragments, or a series that was given, is told before anything is fetched.
    kconfig.read_fragments(definition.configs)
    chosen = patches.read(series, progress)
    files = extra.read_files(definition)
    pristine = source.obtain((base,) if base is not None else definition.bases, progress, refresh=refresh)
    definition = on_base(definition, pristine.base)
    wishes = kconfig.read_fragments(definition.configs)
    if series is None:
        chosen = patches.read(own_series(definition, pristine.tree), progress)
    ssh = [sshd.archive(progress)] if definition.ssh else []
    kernel_inputs = {
        "recipe": RECIPE,
        "compiler": kernel.compiler(),
        "source": pristine.digest,
        "series": chosen.digest,
        "fuzz": str(definition.fuzz),
        "configuration": kconfig.digest(wishes),
    }
    if coverage.instrumented(wishes):
        kernel_inputs["coverage"] = coverage.FLAGS
    spawned = _build_spawned(definition, progress, series, base, refresh)
    other = {} if spawned is None else {"spawned kernel": spawned.digest}
    inputs = {**kernel_inputs, **other, **guest_inputs(definition, initramfs.busybox(progress), files, ssh)}
    digest = store.digest(inputs)
    entry = store.find(digest)
    if entry is not None:
        return _stored(definition, digest, entry, reused=True)
    # A series that does not apply is told of at once, not when another build is done.
    applied = apply_series(pristine, chosen, definition.fuzz)
    refuse(applied)
    for line in lines(applied.report):
        progress.console.print(f"  {line}", markup=False)
    with store.build_lock(progress):
        entry = store.find(digest)
        if entry is None:
            meta = store.Meta(
                definition=definition.name,
                source=pristine.version,
                source_tree=pristine.tree.name,
                series=chosen.place or "",
                patches=len(chosen.patches),
                created=started,
                inputs=inputs,
                spawned_release="" if spawned is None else spawned.version,
            )
            entry = _make(
                definition,
                progress,
                digest=digest,
                kernel_digest=store.digest(kernel_inputs),
                applied=applied,
                wishes=wishes,
                files=files,
                host_extras=ssh,
                spawned=spawned,
                meta=meta,
            )
            clean.keep_limit(progress)
        return _stored(definition, digest, entry, reused=False)


def _make(
    definition: Definition,
    progress: Progress,
    *,
    digest: str,
    kernel_digest: str,
    applied: Applied,
    wishes: Sequence[kconfig.Wish],
    files: Mapping[str, extra.File],
    host_extras: Sequence[bytes],
    spawned: Build | None,
    meta: store.Meta,
) -> Path:
    """Fill a store entry; the build lock is held."""
    folder = paths.cache() / "work" / (definition.name or "unnamed")
    log = folder / "build.log"
    with store.adding(digest) as entry:
        check_space(source.BUILD_SPACE)
        tree = worktree.prepare(applied, folder, progress)
        with progress.step(f"Kernel {definition.name}") as step:
            stamp = tree / worktree.OUTPUT / kernel.COMPILED
            if stamp.exists() and stamp.read_text() == kernel_digest:
                compiled = kernel.outputs(tree)
                step.done("already compiled")
            else:
                stamp.unlink(missing_ok=True)
                confined = coverage.variables(wishes, applied)
                compiled = kernel.compile_kernel(tree, wishes, log, step, variables=confined)
                stamp.write_text(kernel_digest)
        with progress.step("Guest user space") as step:
            wanted = [paths.INITRAMFS / "modules" / name for name in definition.modules]
            objects = kernel.compile_modules(tree, wanted, definition.dialect, folder / "modules.log", step)
            modules = {file.stem: file.read_bytes() for file in objects}
            tools = {
                name: initramfs.tool(name, sources, meta.inputs["compiler"])
                for name, sources in initramfs.tool_sources().items()
            }
            base = initramfs.base_archive(modules, tools, initramfs.busybox(progress), files)
            (entry / "initrd.cpio").write_bytes(base)
            small = payload.payload(meta.inputs["compiler"])
            boot = spawned or compiled
            elf = initramfs.stripped(boot.vmlinux) if definition.dialect in ELF_DIALECTS else None
            # Its modules fit its own kernel only, so another build brings its own user space.
            initrd = spawned.initrd.read_bytes() if spawned is not None else base
            host = initramfs.host_archive(base, boot.bzimage.read_bytes(), elf, small, initrd)
            (entry / "host-initrd.cpio").write_bytes(b"".join((host, *host_extras)))
            step.done(f"{len(base) / 1e6:.1f} MB, {len(modules)} modules")
        for file, name in (
            (compiled.bzimage, "bzImage"),
            (compiled.vmlinux, "vmlinux"),
            (compiled.config, "config"),
            (log, "build.log"),
        ):
            shutil.copyfile(file, entry / name)
        output = tree / worktree.OUTPUT
        saved = kconfig.minimal(output, make.command(tree), make.environment())
        (entry / store.DEFCONFIG).write_text(saved)
        if coverage.instrumented(wishes):
            coverage.keep(applied, tree, entry)
        (entry / store.REPORT).write_bytes(msgspec.json.encode(applied.report))
        warnings = messages.split(compiled.warnings, applied.files)
        (entry / store.WARNINGS).write_bytes(msgspec.json.encode(warnings))
        store.write_meta(entry, meta, compiled.release)
    found = store.find(digest)
    assert found is not None, f"the build {digest} was made and is not there"
    return found


def _stored(definition: Definition, digest: str, entry: Path, *, reused: bool) -> Build:
    meta = store.read_meta(entry)
    return Build(definition, digest, meta.release, entry, meta.source, reused)


def _build_spawned(
    definition: Definition, progress: Progress, series: str | Path | None, base: Base | None, refresh: bool
) -> Build | None:
    """Build the kernel that a definition's host spawns, or return None when that is the host's own."""
    if definition.spawned_kernel is None:
        return None
    other = load_definition(definition.spawned_kernel)
    if other.spawned_kernel is not None or other.dialect != definition.dialect:
        raise UsageError(
            f"{definition.name} cannot spawn {other.name}, "
            + (
                "which names a spawned kernel itself"
                if other.spawned_kernel is not None
                else f"which is of the dialect {other.dialect}, not {definition.dialect}"
            ),
            advice="name in `spawned_kernel` a plain definition of the same dialect",
        )
    return _build(other, progress, series, base, refresh)


def _require_given(definition: Definition, series: str | Path | None, base: Base | None) -> None:
    """Say where to get what only the user can give, when it was not given."""
    for what, found, where in (
        ("series", series, definition.given.series),
        ("base", base, definition.given.base),
    ):
        if where and found is None:
            raise UsageError(
                f"{definition.name} needs --{what}: this repository has none for it", advice=where.strip()
            )


def own_series(definition: Definition, tree: Path) -> str | None:
    """Return where a definition's series is, or None: the quilt file for the tree's version, if there is one.

    For Linux 6.12 that is ``series.6.12`` in the series' folder, beside the ``series`` for all others.
    """
    if definition.series is None:
        return None
    quilt = Path(definition.series) / f"series.{'.'.join(kernel_version(tree).split('.')[:2])}"
    return str(quilt) if quilt.is_file() else definition.series
