# SPDX-License-Identifier: MIT
"""Building after every patch names the first that breaks the build, on a tree of three files."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from images import TO_BZIMAGE, TO_ELF
from rich.console import Console

from harness import paths
from harness.build.each import build_each
from harness.definition import Definition, PathBase
from harness.errors import HarnessError
from harness.progress import Progress

MAKEFILE = """
out := $(O)
tinyconfig: ; @cp Kconfig $(out)/asked.tiny; : > $(out)/.config
olddefconfig: ; @cp $(out)/.config asked
modules: ; @true
bzImage: $(out)/a.o $(out)/b.o
	@mkdir -p $(out)/arch/x86/boot $(out)/include/config
	@echo 7.3.4 > $(out)/include/config/kernel.release
	@cat $^ | TO_ELF > $(out)/vmlinux
	@TO_BZIMAGE < $(out)/vmlinux > $(out)/arch/x86/boot/bzImage
$(out)/%.o: %.c
	@echo "  CC      $*.o"
	@echo $* >> compiled
	@grep -q dubious $< && echo 'WARNING: modpost: $<: odd section' >&2; true
	@grep -n dubious $< | sed 's|^\\([0-9]*\\):.*|../$<:\\1:5: warning: dubious code [-Wdubious]|' >&2
	@! grep -n broken $< | sed 's|^\\([0-9]*\\):.*|../$<:\\1:5: error: it is broken|' >&2 || true
	@! grep -q broken $<
	@cp $< $@
""".replace("TO_ELF", TO_ELF).replace("TO_BZIMAGE", TO_BZIMAGE)
FILES = {"Kbuild": "", "Kconfig": "config SMP\n", "Makefile": MAKEFILE, "a.c": "a\n", "b.c": "dubious\n"}


def adding(file: str, before: str, line: str) -> str:
    """A patch that adds a line behind the last one of a file."""
    return f"--- a/{file}\n+++ b/{file}\n@@ -1 +1,2 @@\n {before}\n+{line}\n"


class World:
    def __init__(self, top: Path) -> None:
        self.top = top
        self.said = io.StringIO()
        for name, text in FILES.items():
            (top / "source").mkdir(exist_ok=True)
            (top / "source" / name).write_text(text)
        (top / "configs").mkdir()
        (top / "configs/base.config").write_text("CONFIG_SMP=y\nCONFIG_NEW=y\n")

    def each(self, *texts: str) -> list[tuple[str, list[str]]]:
        series = self.top / "series"
        series.mkdir(exist_ok=True)
        for number, text in enumerate(texts, 1):
            (series / f"{number}.patch").write_text(text)
        definition = Definition(
            summary="x",
            dialect="reference",
            bases=(PathBase(str(self.top / "source")),),
            configs=("base",),
            topology="pair",
            name="mini",
        )
        progress = Progress(Console(file=self.said, width=200))
        return [(b.patch, b.warnings) for b in build_each(definition, progress, series=series)]

    def compiled(self) -> list[str]:
        return (self.tree / "compiled").read_text().split()

    @property
    def tree(self) -> Path:
        return self.top / "cache/work/mini/linux"


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    monkeypatch.setenv("MKHARNESS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(paths, "CONFIGS", tmp_path / "configs")
    return World(tmp_path)


SYMBOL = adding("Kconfig", "config SMP", "config NEW")


def test_every_patch_is_built_in_one_tree_and_new_warnings_are_told(world):
    results = world.each(SYMBOL, adding("a.c", "a", "dubious"), adding("b.c", "dubious", "fine"))
    assert results == [
        ("", []),
        ("1.patch", []),
        ("2.patch", ["a.o: a.c: odd section", "a.c: dubious code [-Wdubious]"]),
        ("3.patch", []),
    ]
    assert sorted(world.compiled()) == ["a", "a", "b", "b"], "only what a patch changes is compiled again"
    assert "new warning: a.c: dubious code" in world.said.getvalue()
    assert (world.tree / "b.c").read_text() == "dubious\nfine\n"


def test_the_patch_that_breaks_the_build_is_named_with_the_error(world):
    repaired = "--- a/a.c\n+++ b/a.c\n@@ -1,2 +1,2 @@\n a\n-broken\n+good\n"
    with pytest.raises(HarnessError, match=r"patch 2 of 3 breaks the build: 2\.patch") as caught:
        world.each(SYMBOL, adding("a.c", "a", "broken"), repaired)
    assert "a.c:2:5: error: it is broken" in caught.value.details


def test_a_base_that_does_not_build_is_no_patchs_fault(world):
    (world.top / "source/b.c").write_text("broken\n")
    with pytest.raises(HarnessError, match="base does not build"):
        world.each(SYMBOL)


def test_a_symbol_is_asked_for_from_the_patch_on_that_brings_it(world):
    with pytest.raises(HarnessError, match="breaks the build: 2"):
        world.each(SYMBOL, adding("a.c", "a", "broken"))
    assert (world.tree / "asked").read_text() == "CONFIG_SMP=y\nCONFIG_NEW=y\n"
    with pytest.raises(HarnessError, match="breaks the build: 1"):
        world.each(adding("a.c", "a", "broken"), SYMBOL)
    assert (world.tree / "asked").read_text() == "CONFIG_SMP=y\n"


def test_a_series_that_does_not_apply_is_told_before_anything_is_built(world):
    with pytest.raises(HarnessError, match=r"2\.patch .*does not apply"):
        world.each(SYMBOL, adding("a.c", "other", "x"))
    assert not world.tree.exists()
