# SPDX-License-Identifier: MIT
"""What a fragment asks for is granted, or named with the dependency that is missing.

The kernel's own Kconfig programs do the work, so these tests use them, from any kernel source in
the cache, on a Kconfig file of a few lines.
"""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from harness import paths
from harness.build import kconfig
from harness.errors import HarnessError, UsageError

KCONFIG = """
config MODULES
	bool "Modules"
	modules
config KEXEC
	bool "Kexec"
config SMP
	bool "SMP"
config MULTIKERNEL
	bool "Multikernel"
	depends on KEXEC && SMP
config HELPER
	bool
config USER
	bool "User"
	select HELPER
menu "Debugging"
	depends on DEBUG
config CHECKS
	bool "Checks"
endmenu
config DEBUG
	bool "Debug"
choice
	prompt "Preemption"
	default NONE
config NONE
	bool "None"
config FULL
	bool "Full"
	depends on SMP
endchoice
config SIZE
	int "Size"
	range 1 16
	default 4
"""

MAKEFILE = """
export srctree := .
obj := $(O)/scripts/kconfig
tinyconfig: ; cd $(O) && scripts/kconfig/conf -s --allnoconfig ../Kconfig
olddefconfig: ; cd $(O) && scripts/kconfig/conf -s --olddefconfig ../Kconfig
savedefconfig: ; cd $(O) && scripts/kconfig/conf -s --savedefconfig=defconfig ../Kconfig
config-prog := conf
config: ; cd $(O) && scripts/kconfig/$(config-prog) ../Kconfig
"""


@pytest.fixture(scope="session")
def programs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tree with the kernel's Kconfig sources, its programs compiled in the folder ``out``."""
    sources = sorted((paths.cache() / "sources").glob("*/scripts/kconfig/conf.c"))
    if not sources:
        pytest.skip("no kernel source in the cache; `mkh build reference` gets one")
    tree = tmp_path_factory.mktemp("tree")
    scripts = sources[0].parent.parent
    shutil.copytree(scripts / "kconfig", tree / "scripts/kconfig")
    shutil.copytree(scripts / "include", tree / "scripts/include")
    out = tree / "out/scripts/kconfig"
    out.mkdir(parents=True)
    source = tree / "scripts/kconfig"
    for command in (
        ["flex", "-o", out / "lexer.lex.c", "-L", source / "lexer.l"],
        [
            "bison",
            "-o",
            out / "parser.tab.c",
            f"--defines={out}/parser.tab.h",
            "-t",
            "-l",
            source / "parser.y",
        ],
    ):
        subprocess.run(command, check=True)
    flags = ["-D_GNU_SOURCE", f"-I{source}", f"-I{tree}/scripts/include", f"-I{out}", "-w"]
    for name in ("conf", *kconfig.PROBE_OBJECTS):
        file = next(folder / f"{name}.c" for folder in (source, out) if (folder / f"{name}.c").exists())
        subprocess.run(["gcc", *flags, "-c", "-o", out / f"{name}.o", file], check=True)
    subprocess.run(["gcc", "-o", out / "conf", *out.glob("*.o")], check=True)
    (tree / "Makefile").write_text(MAKEFILE)
    return tree


@pytest.fixture
def tree(programs: Path, tmp_path: Path) -> Path:
    top = tmp_path / "tree"
    shutil.copytree(programs, top, copy_function=shutil.copy2)
    (top / "Kconfig").write_text(KCONFIG)
    return top


def configure(tree: Path, **values: str) -> dict[str, str]:
    wishes = [kconfig.Wish(symbol, value, "mine", n) for n, (symbol, value) in enumerate(values.items(), 1)]
    kconfig.configure(tree, tree / "out", wishes, ["make", "-C", str(tree), "O=out"])
    return kconfig.values(tree / "out/.config")


def test_granted_wishes_are_in_the_configuration(tree):
    found = configure(tree, SMP="y", KEXEC="y", MULTIKERNEL="y", SIZE="7")
    assert found == {"SMP": "y", "KEXEC": "y", "MULTIKERNEL": "y", "SIZE": "7", "NONE": "y"}


def test_what_differs_from_the_defaults_gives_the_whole_again(tree):
    make = ["make", "-C", str(tree), "O=out"]
    found = configure(tree, SMP="y", KEXEC="y", MULTIKERNEL="y", SIZE="7")
    saved = kconfig.minimal(tree / "out", make)
    assert "CONFIG_SIZE=7" in saved
    assert "NONE" not in saved, "it is a default"
    (tree / "out/.config").write_text(saved)
    subprocess.run([*make, "olddefconfig"], check=True)
    assert kconfig.values(tree / "out/.config") == found
    configure(tree, SMP="y", SIZE="9")
    assert "CONFIG_SIZE=9" in kconfig.minimal(tree / "out", make), "it is of the configuration before"


def test_unmet_dependency_is_named_with_fragment_and_line(tree):
    with pytest.raises(
        HarnessError, match=r"did not grant 1 of 2.*CONFIG_MULTIKERNEL \(mine\.config\)"
    ) as caught:
        configure(tree, SMP="y", MULTIKERNEL="y")
    assert "mine.config, line 2" in caught.value.details
    assert "KEXEC [=n] && SMP [=y]" in caught.value.details


def test_symbol_that_does_not_exist_is_told_apart(tree):
    with pytest.raises(HarnessError) as caught:
        configure(tree, NOT_THERE="y")
    assert "NOT_THERE\nno such symbol" in caught.value.details


def test_symbol_that_another_selects_cannot_be_off(tree):
    with pytest.raises(HarnessError) as caught:
        configure(tree, USER="y", HELPER="n")
    assert "CONFIG_HELPER=n (mine.config, line 2): it is y" in caught.value.details
    assert "USER [=y]" in caught.value.details


def test_value_out_of_range_is_not_granted(tree):
    with pytest.raises(HarnessError) as caught:
        configure(tree, SIZE="99")
    assert "SIZE" in caught.value.details


def test_dependency_of_the_menu_around_a_symbol_is_named(tree):
    with pytest.raises(HarnessError) as caught:
        configure(tree, CHECKS="y")
    assert "CONFIG_CHECKS=y (mine.config, line 1): it is off" in caught.value.details
    assert "DEBUG [=n]" in caught.value.details


def test_choice_that_cannot_be_taken_names_what_it_depends_on(tree):
    with pytest.raises(HarnessError) as caught:
        configure(tree, FULL="y")
    assert "SMP [=n]" in caught.value.details
    assert configure(tree, SMP="y", FULL="y")["FULL"] == "y"


def test_two_of_one_choice_cannot_both_be_had(tree):
    with pytest.raises(HarnessError, match=r"did not grant 1 of 3.*CONFIG_NONE"):
        configure(tree, SMP="y", NONE="y", FULL="y")


def test_range_is_named_when_a_value_is_outside_it(tree):
    with pytest.raises(HarnessError) as caught:
        configure(tree, SIZE="99")
    assert "Range" in caught.value.details
    assert "[1 16]" in caught.value.details


def test_kconfig_warnings_are_returned_also_when_nothing_is_made_again(tree):
    (tree / "Kconfig").write_text(KCONFIG + "config TAKER\n\tdef_bool y\n\tselect CHECKS\n")
    wish = [kconfig.Wish("SMP", "y", "mine", 1)]
    said = [kconfig.configure(tree, tree / "out", wish, ["make", "-C", str(tree), "O=out"]) for _ in range(2)]
    assert said[0] == said[1]
    assert "unmet direct dependencies detected for CHECKS" in said[0]


def test_wish_for_off_may_name_an_unknown_symbol(tree):
    assert "NOT_THERE" not in configure(tree, NOT_THERE="n")


def test_unchanged_configuration_is_not_made_again(tree):
    configure(tree, SMP="y")
    (tree / "Makefile").write_text("tinyconfig: ; exit 1\n")
    assert configure(tree, SMP="y")["SMP"] == "y"
    for change in ("Kconfig", "out/.config"):
        kept = (tree / change).read_text()
        (tree / change).write_text(kept + "\n# changed\n")
        with pytest.raises(HarnessError, match="tinyconfig"):
            configure(tree, SMP="y")
        (tree / change).write_text(kept)


def test_denied_wish_is_denied_again(tree):
    for _ in range(2):
        with pytest.raises(HarnessError, match="NOT_THERE"):
            configure(tree, NOT_THERE="y")


def test_broken_kconfig_gives_its_message(tree):
    (tree / "Kconfig").write_text("config\n")
    with pytest.raises(HarnessError, match="tinyconfig") as caught:
        configure(tree)
    assert "Kconfig:1" in caught.value.details


def fragments(folder: Path, **texts: str) -> tuple[kconfig.Wish, ...]:
    for name, text in texts.items():
        (folder / f"{name}.config").write_text(text)
    return kconfig.read_fragments(list(texts), folder)


def test_fragments_are_read_in_the_kernels_own_format(tmp_path):
    wishes = fragments(
        tmp_path, a='# comment\nCONFIG_A=y\n\n# CONFIG_B is not set\nCONFIG_C="x y"\nCONFIG_D=n\n'
    )
    assert [(w.symbol, w.value, w.line) for w in wishes] == [
        ("A", "y", 2),
        ("B", "n", 4),
        ("C", '"x y"', 5),
        ("D", "n", 6),
    ]


def test_fragments_may_agree_but_not_contradict(tmp_path):
    assert len(fragments(tmp_path, a="CONFIG_A=y\n", b="CONFIG_A=y\n")) == 1
    with pytest.raises(
        UsageError, match=r"CONFIG_A=y \(a\.config, line 1\).*CONFIG_A=n \(b\.config, line 1\)"
    ):
        fragments(tmp_path, a="CONFIG_A=y\n", b="# CONFIG_A is not set\n")


@pytest.mark.parametrize("line", ["CONFIG_A", "A=y", "CONFIG_A = y", "CONFIG_A=", "include x"])
def test_line_that_is_no_setting_is_refused(tmp_path, line):
    with pytest.raises(UsageError, match=r"a\.config, line 2"):
        fragments(tmp_path, a=f"# x\n{line}\n")


def test_missing_fragment_names_those_that_exist(tmp_path):
    (tmp_path / "here.config").touch()
    with pytest.raises(UsageError, match="gone") as caught:
        kconfig.read_fragments(["gone"], tmp_path)
    assert "here" in caught.value.advice


def test_digest_goes_by_what_is_asked_for(tmp_path):
    one = fragments(tmp_path, a="CONFIG_A=y\nCONFIG_B=y\n")
    two = fragments(tmp_path, a="# other\nCONFIG_B=y\nCONFIG_A=y\n")
    three = fragments(tmp_path, a="CONFIG_A=y\n")
    assert kconfig.digest(one) == kconfig.digest(two) != kconfig.digest(three)


def test_every_fragment_of_the_checkout_can_be_read():
    for file in paths.CONFIGS.glob("*.config"):
        assert kconfig.read_fragments([file.stem]), file
