# SPDX-License-Identifier: MIT
"""Definitions and topologies: what is valid is read, what is not is refused with the reason."""

from __future__ import annotations

import io
import re
from pathlib import Path

import pytest
from rich.console import Console

from harness import paths
from harness.build import build
from harness.build.source import record_of
from harness.definition import (
    DIALECTS,
    DebianBase,
    PathBase,
    TarballBase,
    load_definition,
    load_topology,
    on_base,
)
from harness.errors import UsageError
from harness.multikernel import dialects
from harness.progress import Progress

GOOD = """
summary = "x"
dialect = "reference"
configs = ["base"]
topology = "pair"
[[bases]]
kind = "debian"
package = "linux-source-7.3"
suites = ["sid"]
"""


def definition(folder: Path, text: str):
    file = folder / "mine.toml"
    file.write_text(text)
    return load_definition(str(file))


def test_every_definition_and_topology_of_the_checkout_is_valid():
    for file in paths.KERNELS.glob("*.toml"):
        if file.name.endswith(".known.toml"):
            continue
        found = load_definition(file.stem)
        assert found.name == file.stem
        load_topology(found.topology)
        assert all((paths.CONFIGS / f"{name}.config").is_file() for name in found.configs)
        assert all((paths.INITRAMFS / "modules" / name).is_dir() for name in found.modules)


def test_bases_keep_their_order_and_kind(tmp_path):
    sha = "0" * 64
    text = GOOD + f'[[bases]]\nkind = "tarball"\nurl = "linux.tar.xz"\nsha256 = "{sha}"\n'
    assert definition(tmp_path, text).bases == (
        DebianBase("linux-source-7.3", ("sid",)),
        TarballBase("linux.tar.xz", sha),
    )


@pytest.mark.parametrize(
    ("was", "becomes", "named"),
    [
        ('kind = "debian"', 'kind = "svn"', "svn"),
        ('suites = ["sid"]', "suites = []", "suites"),
        ('summary = "x"', 'summary = "x"\nsumary = "y"', "sumary"),
        ('configs = ["base"]', "configs = []", "configs"),
        ('configs = ["base"]', 'configs = ["../../etc/passwd"]', "configs"),
        ('topology = "pair"', "", "topology"),
        ('dialect = "reference"', "dialect = 3", "dialect"),
        ("[[bases]]", "[[bases]", "mine.toml"),
        ('suites = ["sid"]', 'suites = ["sid"]\nwithout = ["kho"]', "kho"),
        ('suites = ["sid"]', 'suites = ["sid"]\nskips = -1', "skips"),
    ],
)
def test_mistake_is_named_with_the_file(tmp_path, was, becomes, named):
    with pytest.raises(UsageError) as caught:
        definition(tmp_path, GOOD.replace(was, becomes))
    assert named in str(caught.value)
    assert "mine.toml" in str(caught.value)
    assert caught.value.exit_status == 2


def test_a_base_goes_without_fragments_and_their_capabilities(tmp_path):
    text = GOOD.replace(
        'configs = ["base"]', 'configs = ["base", "kho"]\nexpects = ["spawn", "kho"]\nskips = 1'
    )
    old = '[[bases]]\nkind = "path"\npath = "/old"\nwithout = ["kho"]\nskips = 7\n'
    found = definition(tmp_path, text + old)
    new, older = (on_base(found, base) for base in found.bases)
    assert (new.configs, new.expects, new.skips) == (("base", "kho"), ("spawn", "kho"), 1)
    assert (older.configs, older.expects, older.skips) == (("base",), ("spawn",), 7)
    assert on_base(found, None) == found


def test_what_a_base_goes_without_does_not_make_its_source_another(tmp_path):
    plain, less = PathBase("/old"), PathBase("/old", without=("kho",), skips=7)
    assert record_of(plain) == record_of(less)


def test_bytes_that_are_no_text_are_refused(tmp_path):
    (tmp_path / "mine.toml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UsageError, match=r"mine\.toml"):
        load_definition(str(tmp_path / "mine.toml"))


def test_missing_definition_names_those_that_exist():
    with pytest.raises(UsageError) as caught:
        load_definition("nothing")
    assert "reference" in caught.value.advice


def topology(folder: Path, was: str, becomes: str):
    text = (paths.TOPOLOGIES / "pair.toml").read_text()
    assert was in text
    (folder / "mine.toml").write_text(text.replace(was, becomes))
    return load_topology(str(folder / "mine.toml"))


@pytest.mark.parametrize(
    ("was", "becomes", "why"),
    [
        ("cpus = [3]", "cpus = [4]", "granted CPU 4, the machine has 4"),
        ("cpus = [3]", "cpus = [3, 3]", "granted twice"),
        ("cpus = [3]", "cpus = [0]", "cpus"),
        ("memory = 0x1000_0000", "memory = 0x7000_0000", "more memory than the pool"),
        ("memory = 0x1000_0000", "memory = 4097", "memory"),
        ("memory_mib = 2048", "memory_mib = 1024", "beyond"),
        ("port = 1", "port = 0", "serial port used twice"),
        ('line = "host.agent"', 'line = "other.agent"', "host.agent"),
    ],
)
def test_topology_that_contradicts_itself_is_refused(tmp_path, was, becomes, why):
    with pytest.raises(UsageError, match="mine") as caught:
        topology(tmp_path, was, becomes)
    assert why in str(caught.value)


def test_every_topology_of_the_checkout_is_valid():
    for file in paths.TOPOLOGIES.glob("*.toml"):
        assert load_topology(file.stem).name == file.stem


@pytest.mark.parametrize(
    ("was", "becomes", "why"),
    [
        ("port = 2\nirq = 4", "port = 4\nirq = 4", "ISA has ports 0 to 3"),
        ("port = 2\nirq = 4", "port = 2", "with an interrupt"),
        ("port = 2\nirq = 4", "port = 1\nirq = 4", "ISA ports 0 and 1 must be free"),
        ("port = 2\nirq = 4", 'bus = "pci"\nport = 16', "PCI ports are polled"),
        ('bus = "pci"\nport = 0', 'bus = "pci"\nport = 0\nirq = 5', "PCI ports are polled"),
        ('bus = "pci"\nport = 0', 'bus = "pci"\nport = 0\nio = 0xc000', "io is not to be set"),
        ('bus = "pci"\nport = 0', "port = 2\nirq = 5", "isa 2"),
        ('bus = "pci"\nport = 0', 'bus = "usb"\nport = 0', "usb"),
        ('bus = "pci"\nport = 1\n', 'bus = "pci"\nport = 0\n', "pci 0"),
    ],
)
def test_serial_lines_that_cannot_be_are_refused(tmp_path, was, becomes, why):
    text = (paths.TOPOLOGIES / "crowd.toml").read_text()
    assert was in text
    (tmp_path / "mine.toml").write_text(text.replace(was, becomes, 1))
    with pytest.raises(UsageError, match="mine") as caught:
        load_topology(str(tmp_path / "mine.toml"))
    assert why in str(caught.value)


def test_dialects_that_a_definition_may_name_are_those_that_there_are():
    assert set(DIALECTS) == set(dialects.DIALECTS)


def test_fragments_are_added_behind_the_name(tmp_path):
    plain, more = load_definition("reference"), load_definition("reference+kasan+lockdep")
    assert more.configs == (*plain.configs, "kasan", "lockdep")
    assert more.name == "reference+kasan+lockdep"
    folder = tmp_path / "a+b"
    folder.mkdir()
    (folder / "mine.toml").write_bytes((paths.KERNELS / "rfc-v1.toml").read_bytes())
    assert load_definition(f"{folder}/mine.toml+kasan").configs[-1] == "kasan"
    with pytest.raises(UsageError, match="no configuration fragment 'kasam'") as caught:
        load_definition("reference+kasam")
    assert "kasan" in caught.value.advice


@pytest.mark.parametrize("name", ["rfc-v1", "rfc-v2", "rfc-v2-6.18"])
def test_posts_that_were_not_given_are_told_with_message_id_and_base(name):
    with pytest.raises(UsageError, match="needs --series") as caught:
        build(load_definition(name), Progress(Console(file=io.StringIO())))
    assert "-xiyou.wangcong@gmail.com" in caught.value.advice
    assert "b4" in caught.value.advice
    assert re.search(r"Linux 6\.1[78]", caught.value.advice)


def test_a_checkout_that_was_not_given_is_told_with_where_to_get_it():
    with pytest.raises(UsageError, match="needs --base") as caught:
        build(load_definition("tree"), Progress(Console(file=io.StringIO())))
    assert "git clone" in caught.value.advice


def test_definition_without_a_base_is_refused(tmp_path):
    with pytest.raises(UsageError, match=r"mine\.toml.*bases"):
        definition(tmp_path, GOOD[: GOOD.index("[[bases]]")])


def test_a_kernel_to_spawn_is_a_definition_that_there_is(tmp_path):
    head, bases = GOOD.split("[[bases]]")
    assert definition(tmp_path, GOOD).spawned_kernel is None
    for name in ("reference", "reference+kasan"):
        text = f'{head}spawned_kernel = "{name}"\n[[bases]]{bases}'
        assert definition(tmp_path, text).spawned_kernel == name
    beside = definition(tmp_path, f'{head}spawned_kernel = "other.toml"\n[[bases]]{bases}')
    assert beside.spawned_kernel == str(tmp_path / "other.toml")
    with pytest.raises(UsageError, match=r"mine\.toml.*spawned_kernel") as caught:
        definition(tmp_path, f'{head}spawned_kernel = "referense"\n[[bases]]{bases}')
    assert "reference" in str(caught.value)
