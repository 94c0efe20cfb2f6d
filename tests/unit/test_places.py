# SPDX-License-Identifier: MIT
"""A place is found without debugging information, by compiling one object of the build's tree once more."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness.diagnose.images import Image
from harness.diagnose.places import ABOUT, Places
from harness.klog.symbols import Symbols

SOURCE = """\
int one(int x)
{
\treturn x + 1;
}
int other(int x)
{
\tvolatile int sum = x;

\tsum += 7;
\treturn sum;
}
"""
COMMAND = "gcc -Os -ffunction-sections -c -o {object} {source}"


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The build folder of a "kernel" of one file, as make leaves it."""
    monkeypatch.setenv("MKHARNESS_CACHE", str(tmp_path))
    output = tmp_path / "work/mini/linux/mkharness-build"
    (output / "lib").mkdir(parents=True)
    (output / "lib/sum.c").write_text(SOURCE)
    command = COMMAND.format(object="lib/sum.o", source="lib/sum.c")
    (output / "lib/.sum.o.cmd").write_text(f"savedcmd_lib/sum.o := ccache {command} ; ./objtool lib/sum.o\n")
    for words in (
        command.split(),
        ["ar", "rcTP", "vmlinux.a", "lib/sum.o"],
        ["ld", "-Ttext=0xffffffff81000000", "-e", "one", "-o", "vmlinux", "lib/sum.o"],
    ):
        subprocess.run(words, cwd=output, check=True)
    return output


@pytest.fixture
def places(tree: Path) -> Iterator[Places]:
    kept = tree.parent / "kept"
    kept.write_bytes((tree / "vmlinux").read_bytes())
    found = Places(Image("host", kept, "abc", "1.0", "mini", tree / "none"))
    yield found
    found.close()


def last(tree: Path) -> tuple[int, int]:
    """Return the place of other()'s last instruction, which returns, and its size."""
    ((_, size),) = Symbols(tree / "vmlinux").functions("other")
    return size - 1, size


def test_line_of_a_place_is_told(tree: Path, places: Places):
    assert places.of("other", *last(tree)) == "lib/sum.c:11"


def test_padding_that_a_splat_counts_makes_no_difference(tree: Path, places: Places):
    inside, size = last(tree)
    assert places.of("other", inside, size + 15) == "lib/sum.c:11"


def test_function_of_another_size_is_another_one(tree: Path, places: Places):
    assert not places.of("other", 0, last(tree)[1] + 100)
    assert not places.of("none_such", 0, 10)


def test_tree_of_another_build_is_told(tree: Path, places: Places):
    with (tree / "vmlinux").open("ab") as file:
        file.write(b"changed")
    assert places.of("other", *last(tree)) == f"{ABOUT}lib/sum.c:11"


def test_without_a_tree_there_is_no_place_and_no_error(tree: Path, places: Places):
    (tree / "vmlinux.a").unlink()
    assert places.of("other", *last(tree)) == ""


def test_object_that_cannot_be_compiled_is_no_error(tree: Path, places: Places):
    (tree / "lib/sum.c").write_text("this is no C")
    assert places.of("other", *last(tree)) == ""


def test_debugging_information_is_used_where_it_is(tree: Path):
    command = COMMAND.format(object="debug.o", source="lib/sum.c").split()
    subprocess.run([*command, "-g"], cwd=tree, check=True)
    link = ["ld", "-Ttext=0xffffffff81000000", "-e", "one", "-o", "debug", "debug.o"]
    subprocess.run(link, cwd=tree, check=True)
    (tree / "vmlinux.a").unlink()
    places = Places(Image("host", tree / "debug", "abc", "1.0", "mini", tree / "none"))
    assert places.of("other", *last(tree)).endswith("lib/sum.c:11")
    places.close()
