# SPDX-License-Identifier: MIT
"""From a definition to a store entry, on a tree of five files that behaves like a kernel's."""

from __future__ import annotations

import io
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from images import TO_BZIMAGE, TO_ELF, bzimage, elf
from rich.console import Console

import harness.build
from harness import paths
from harness.build import Build, build, initramfs, own_series, payload, store
from harness.definition import Definition, GuestFile, PathBase, load_definition
from harness.errors import HarnessError, UsageError
from harness.progress import Progress

MAKEFILE = """
out := $(O)
tinyconfig: ; @echo CONFIG_MODULES=y > $(out)/.config
olddefconfig: ; @true
savedefconfig: ; @cp $(out)/.config $(out)/defconfig
ifdef M
modules: ; @cd $(M)/mod && cp mod.c mod.ko && echo $(MKMSG_API) >> mod.ko && cat $(CURDIR)/main.c >> mod.ko
else
modules: ; @true
endif
bzImage: $(out)/vmlinux
	@mkdir -p $(out)/arch/x86/boot $(out)/include/config
	@TO_BZIMAGE < $(out)/vmlinux > $(out)/arch/x86/boot/bzImage
	@echo 7.3.4 > $(out)/include/config/kernel.release
$(out)/vmlinux: main.c
	@echo "  CC      main.o"
	@echo compiled >> compiled
	@test ! -e $(SLOW) || sleep 64
	@! grep -n 'syntax error' main.c
	@TO_ELF < main.c > $@
""".replace("TO_ELF", TO_ELF).replace("TO_BZIMAGE", TO_BZIMAGE)


class World:
    """A checkout and a cache of the test's own."""

    mode = 0o644

    def __init__(self, top: Path) -> None:
        self.source = top / "source"
        self.source.mkdir()
        self.slow = top / "slow"
        (self.source / "Kbuild").touch()
        (self.source / "Kconfig").touch()
        (self.source / "Makefile").write_text(MAKEFILE.replace("$(SLOW)", str(self.slow)))
        (self.source / "main.c").write_text("one\ntwo\nthree\n")
        self.configs = top / "configs"
        self.configs.mkdir()
        (self.configs / "base.config").write_text("CONFIG_SMP=y\n")
        self.mine = top / "mine"
        self.mine.write_text("mine")
        self.initramfs = top / "initramfs"
        for name in ("agent", "mkctl"):
            (self.initramfs / name).mkdir(parents=True)
            (self.initramfs / name / "main.c").write_text("int main(void) { return 0; }\n")
        (self.initramfs / "payload").mkdir()
        (self.initramfs / "payload/main.c").write_text("void _start(void) {}\n")
        (self.initramfs / "modules/mod").mkdir(parents=True)
        (self.initramfs / "modules/mod/Kbuild").touch()
        (self.initramfs / "modules/mod/mod.c").write_text("module")
        (self.initramfs / "init.j2").write_text("#!/bin/busybox sh\n{{ modules }}\n")
        self.cache = top / "cache"
        (self.cache / "guest").mkdir(parents=True)
        (self.cache / "guest/busybox").write_text("busybox")
        self.series: Path | None = None
        self.said = io.StringIO()

    def patch(self, becomes: str) -> None:
        self.series = self.cache.parent / "series"
        self.series.mkdir(exist_ok=True)
        (self.series / "1.patch").write_text(
            f"--- a/main.c\n+++ b/main.c\n@@ -1,3 +1,3 @@\n one\n-two\n+{becomes}\n three\n"
        )

    def build(self, spawned_kernel: str | None = None) -> Build:
        definition = Definition(
            summary="x",
            dialect="reference",
            bases=(PathBase(str(self.source)),),
            configs=("base",),
            topology="pair",
            spawned_kernel=spawned_kernel,
            modules=("mod",),
            files={"etc/mine": GuestFile(str(self.mine), self.mode)},
            name="mini",
        )
        return build(definition, Progress(Console(file=self.said)), series=self.series)

    def compiled(self) -> int:
        """How often the kernel was compiled in the present tree."""
        return len((self.cache / "work/mini/linux/compiled").read_text().splitlines())


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    made = World(tmp_path)
    monkeypatch.setenv("MKHARNESS_CACHE", str(made.cache))
    monkeypatch.setattr(paths, "CONFIGS", made.configs)
    monkeypatch.setattr(paths, "INITRAMFS", made.initramfs)
    return made


def test_build_has_everything_and_is_reused(world):
    world.patch("TWO")
    first = world.build()
    assert (first.reused, first.version) == (False, "7.3.4")
    assert first.bzimage.read_bytes() == bzimage(elf(b"one\nTWO\nthree\n"))
    assert "CONFIG_SMP=y" in first.config.read_text()
    assert "CONFIG_SMP=y" in (first.folder / store.DEFCONFIG).read_text()
    assert b"module" + b"reference\n" in first.initrd.read_bytes()
    assert first.host_initrd.read_bytes().startswith(first.initrd.read_bytes())
    assert [(patch.files, patch.hunks) for patch in first.apply_report] == [(["main.c"], {"clean": 1})]
    assert json.loads((first.folder / "meta.json").read_text())["definition"] == "mini"
    start = time.monotonic()
    second = world.build()
    assert time.monotonic() - start < 1
    assert (second.reused, second.digest, second.folder) == (True, first.digest, first.folder)


def test_changed_guest_program_does_not_compile_the_kernel_again(world):
    first = world.build()
    (world.initramfs / "agent/main.c").write_text("int main(void) { return 1; }\n")
    second = world.build()
    assert second.digest != first.digest
    assert world.compiled() == 1
    assert second.initrd.read_bytes() != first.initrd.read_bytes()
    assert first.initrd.exists(), "an earlier build stays in the store"


def write_tool(world: World, monkeypatch: pytest.MonkeyPatch, name: str, says: str) -> None:
    """Put a program in front of the computer's own that says it is another version."""
    folder = world.cache.parent / "bin"
    folder.mkdir()
    real = shutil.which(name)
    script = f'#!/bin/sh\n[ "$1" = --version ] && echo {says} || exec {real} "$@"\n'
    (folder / name).write_text(script)
    (folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")


@pytest.mark.parametrize(
    "change",
    [
        "series",
        "source",
        "config",
        "module",
        "tool",
        "init",
        "busybox",
        "file",
        "mode",
        "gcc",
        "ld",
        "recipe",
    ],
)
def test_every_input_counts(world, monkeypatch, change):
    first = world.build()
    if change == "series":
        world.patch("TWO")
    elif change == "mode":
        monkeypatch.setattr(World, "mode", 0o600)
    elif change in ("gcc", "ld"):
        write_tool(world, monkeypatch, change, "99.1")
    elif change == "recipe":
        monkeypatch.setattr(harness.build, "RECIPE", "another")
    else:
        file, text = {
            "source": (world.source / "main.c", "other\n"),
            "config": (world.configs / "base.config", "CONFIG_SMP=y\nCONFIG_MORE=y\n"),
            "module": (world.initramfs / "modules/mod/mod.c", "other"),
            "tool": (world.initramfs / "mkctl/main.c", "int main(void) { return 1; }\n"),
            "init": (world.initramfs / "init.j2", "#!/bin/busybox sh\n"),
            "busybox": (world.cache / "guest/busybox", "newer"),
            "file": (world.mine, "changed"),
        }[change]
        assert file.exists()
        file.write_text(text)
    second = world.build()
    assert not second.reused
    assert second.digest != first.digest
    told = [store.read_meta(built.folder).inputs for built in (first, second)]
    assert len(set(told[0].items()) ^ set(told[1].items())) == 2, "one input differs, and is named"
    assert world.build().reused


@pytest.mark.parametrize(("version", "place"), [("6.12.107", "series.6.12"), ("6.1", ""), ("7.3.4", "")])
def test_a_series_may_have_a_quilt_file_for_one_version(tmp_path, version, place):
    numbers = zip(("VERSION", "PATCHLEVEL", "SUBLEVEL"), version.split("."), strict=False)
    (tmp_path / "Makefile").write_text("".join(f"{name} = {number}\n" for name, number in numbers))
    (tmp_path / "series.6.12").touch()
    definition = Definition(
        summary="x",
        dialect="reference",
        bases=(PathBase("/"),),
        configs=("base",),
        topology="pair",
        series=str(tmp_path),
    )
    assert own_series(definition, tmp_path) == str(tmp_path / place)


def test_touched_files_and_comments_are_no_change(world):
    first = world.build()
    (world.configs / "base.config").write_text("# why\nCONFIG_SMP=y\n")
    os.utime(world.mine)
    os.utime(world.initramfs / "init.j2")
    assert world.build().digest == first.digest


@pytest.mark.parametrize("what", ["missing", "folder", "pipe"])
def test_guest_file_that_cannot_be_had_is_named(world, what):
    world.mine.unlink()
    if what == "folder":
        world.mine.mkdir()
    elif what == "pipe":
        os.mkfifo(world.mine)
    with pytest.raises(UsageError, match="etc/mine") as caught:
        world.build()
    assert str(world.mine) in str(caught.value)
    assert not (world.cache / "store").exists()


def test_broken_patch_leaves_the_store_and_works_when_mended(world):
    world.patch("TWO")
    good = world.build()
    world.patch("syntax error")
    with pytest.raises(HarnessError, match="does not compile"):
        world.build()
    assert [entry.name for entry in (world.cache / "store").iterdir()] == [good.digest]
    world.patch("TWO")
    assert world.build().reused
    world.patch("2")
    assert world.build().bzimage.read_bytes() == bzimage(elf(b"one\n2\nthree\n"))


RUN = """
import sys
sys.path.insert(0, sys.argv[2])
from pathlib import Path
from harness import paths
from test_build import World
world = World.__new__(World)
world.__dict__.update(eval(sys.stdin.read(), {"Path": Path, "PosixPath": Path}))
import io
world.said = io.StringIO()
paths.CONFIGS, paths.INITRAMFS = world.configs, world.initramfs
built = world.build()
print(built.digest, built.reused)
"""


def run_elsewhere(world: World) -> subprocess.Popen[str]:
    """Build in another process."""
    child = subprocess.Popen(
        [sys.executable, "-c", RUN, "", str(Path(__file__).parent)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(paths.CHECKOUT)},
    )
    assert child.stdin is not None
    child.stdin.write(repr({key: value for key, value in vars(world).items() if key != "said"}))
    child.stdin.close()
    return child


def test_two_at_once_compile_once(world):
    children = [run_elsewhere(world) for _ in range(2)]
    said = [child.stdout.read().split() for child in children if child.stdout]
    assert [child.wait() for child in children] == [0, 0]
    assert said[0][0] == said[1][0]
    assert world.compiled() == 1


def test_killed_build_is_continued_from_a_clean_state(world):
    world.slow.touch()
    child = run_elsewhere(world)
    limit = time.monotonic() + 20
    marker = world.cache / "work/mini/linux/compiled"
    while not marker.exists() and time.monotonic() < limit:
        time.sleep(0.02)
    os.kill(child.pid, signal.SIGKILL)
    child.wait()
    world.slow.unlink()
    assert not list((world.cache / "store").glob("*[!w]")), "no entry but unfinished .new ones"
    assert world.build().bzimage.read_bytes() == bzimage(elf(b"one\ntwo\nthree\n"))
    assert not list((world.cache / "store").glob("*.new"))


def test_cache_that_cannot_be_written_is_told(world, monkeypatch):
    (world.cache / "store").write_text("in the way")
    with pytest.raises(HarnessError, match="the build of mini failed") as caught:
        world.build()
    assert "MKHARNESS_CACHE" in caught.value.advice


OTHER = """
summary = "the kernel to spawn"
dialect = "{dialect}"
configs = ["base"]
topology = "pair"
modules = ["mod"]
{more}
[[bases]]
kind = "path"
path = "{path}"
"""


def other(world: World, dialect: str = "reference", more: str = "") -> str:
    source = world.source.parent / "other"
    if not source.exists():
        shutil.copytree(world.source, source)
        (source / "main.c").write_text("four\n")
    file = world.cache.parent / "other.toml"
    file.write_text(OTHER.format(dialect=dialect, more=more, path=source))
    return str(file)


def test_the_host_spawns_the_kernel_of_another_definition_with_its_own_user_space(world):
    plain = world.build()
    assert plain.spawned_version == plain.version == "7.3.4"
    mixed, four = world.build(other(world)), bzimage(elf(b"four\n"))
    assert mixed.bzimage.read_bytes() == plain.bzimage.read_bytes() != four
    spawned = build(load_definition(other(world)), Progress(Console(file=world.said)))
    assert spawned.reused
    assert spawned.bzimage.read_bytes() == four
    user_space, its_own = spawned.initrd.read_bytes(), mixed.initrd.read_bytes()
    assert user_space != its_own, "the modules are built against another kernel"
    small = payload.payload("any")
    assert mixed.host_initrd.read_bytes() == initramfs.host_archive(its_own, four, None, small, user_space)
    assert mixed.digest != plain.digest


def test_another_kernel_to_spawn_is_another_build(world):
    name = other(world)
    first = world.build(name)
    assert world.build(name).reused
    (world.source.parent / "other/main.c").write_text("five\n")
    second = world.build(name)
    assert second.digest != first.digest
    assert b"five\n" in second.host_initrd.read_bytes()


@pytest.mark.parametrize(
    ("dialect", "more", "why"),
    [
        ("v1", "", "of the dialect v1, not reference"),
        ("reference", 'spawned_kernel = "reference"', "which names a spawned kernel itself"),
    ],
)
def test_a_kernel_that_cannot_be_spawned_is_refused_before_anything_is_built(world, dialect, more, why):
    with pytest.raises(UsageError, match=why):
        world.build(other(world, dialect, more))
    assert not (world.cache / "work").exists()
