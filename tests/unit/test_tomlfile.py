# SPDX-License-Identifier: MIT
"""TOML that lies ends in an error that names file, line, key and choices; exit status 2, nothing written."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from harness import paths, tomlfile
from harness.definition import load_definition, load_topology
from harness.errors import UsageError

GOOD = """summary = "x"
dialect = "reference"
configs = [
    "base",
    "host",
]
topology = "pair"

[[bases]]
kind = "path"
path = "/nowhere"

[[bases]]
kind = "debian"
package = "linux-source-7.3"
suites = ["sid"]
"""
LIES = {
    "unknown key": ('summary = "x"', 'sumary = "x"', ["line 1", "sumary", "did you mean summary", "dialect"]),
    "unknown key in a base": (
        "path = ",
        "paht = ",
        ["line 11", "bases[0].paht", "did you mean path", "kind"],
    ),
    "wrong type": ("dialect = ", "dialect = 3 #", ["line 2", "dialect", "expected `str`"]),
    "wrong type in a list": ('"host"', "3", ["line 3", "configs[1]", "expected `str`"]),
    "table for a text": ('topology = "pair"', "topology = {a = 1}", ["line 7", "topology"]),
    "unknown dialect": ('"reference"', '"refrence"', ["line 2", "did you mean reference", "v1"]),
    "unknown fragment": ('"host"', '"hots"', ["line 3", "configs[1]", "did you mean host", "kexec"]),
    "unknown topology": ('"pair"', '"pear"', ["line 7", "did you mean pair", "crowd"]),
    "unknown module": ('summary = "x"', 'summary = "x"\nmodules = ["mkmgs"]', ["line 2", "mkmsg"]),
    "unknown kind": ('"debian"', '"debain"', ["line 14", "bases[1].kind", "did you mean debian", "tarball"]),
    "no kind": ('kind = "path"\n', "", ["line 9", "the key kind is missing", "git"]),
    "missing key": ('summary = "x"\n', "", ["the key summary is missing"]),
    "duplicate key": ('topology = "pair"', 'topology = "pair"\ntopology = "crowd"', ["line 8"]),
    "huge number": ('summary = "x"', f"summary = {'9' * 5000}", ["4300 digits"]),
    "negative": ('summary = "x"', 'summary = "x"\nssh = -1', ["line 2", "ssh", "expected `bool`"]),
    "date": ('"x"', "1979-05-27", ["line 1", "expected `str`"]),
    "not a number": ('"x"', "nan", ["line 1", "expected `str`"]),
    "unfinished text": ('suites = ["sid"]', 'suites = ["sid', ["line 16"]),
    "deep brackets": ('"x"', "[" * 5000, ["nested too deeply"]),
    "option for git": ('kind = "path"\npath = "/nowhere"', 'kind = "git"\nrepository = "--x"', ["line 11"]),
    "way out of the guest": ("[[bases]]", '[files]\n"../x" = "y"\n[[bases]]', ["line 10", "files"]),
    "mode beyond the bits": ("[[bases]]", '[files.x]\nsource = "y"\nmode = 0o10000\n[[bases]]', ["4095"]),
    "wrong way out": ('"host"', '"../../etc/passwd"', ["line 3", "configs[1]"]),
}


def written(folder: Path, text: str | bytes) -> str:
    file = folder / "mine.toml"
    file.write_bytes(text.encode() if isinstance(text, str) else text)
    return str(file)


def test_the_good_one_is_good(tmp_path):
    assert load_definition(written(tmp_path, GOOD)).name == "mine"


@pytest.mark.parametrize("lie", LIES)
def test_lie_is_named(tmp_path, lie):
    was, becomes, named = LIES[lie]
    assert was in GOOD
    with pytest.raises(UsageError) as caught:
        load_definition(written(tmp_path, GOOD.replace(was, becomes, 1)))
    assert caught.value.exit_status == 2
    assert [word for word in ["mine.toml", *named] if word not in str(caught.value)] == [], str(caught.value)


@pytest.mark.parametrize("content", [b"\xff\xfe\x00", b"", b"\xef\xbb\xbfsummary = 1", b"\0", b"#" * 200_000])
def test_bytes_that_are_no_definition(tmp_path, content):
    with pytest.raises(UsageError, match=r"mine\.toml"):
        load_definition(written(tmp_path, content))


def test_names_that_are_no_files(tmp_path):
    (tmp_path / "folder.toml").mkdir()
    for name in (str(tmp_path / "folder.toml"), "a\0.toml", "../" * 3 + "etc/passwd", "x" * 5000, ""):
        with pytest.raises(UsageError, match="choose one of") as caught:
            load_definition(name)
        assert "reference" in caught.value.advice


TOPOLOGY_LIES = {
    "too many CPUs": ("vcpus = 4", "vcpus = 100_000", ["line 3", "vcpus"]),
    "negative memory": ("memory_mib = 2048", "memory_mib = -1", ["line 4", "memory_mib"]),
    "memory without end": ("memory_mib = 2048", f"memory_mib = {10**40}", ["line 4", "memory_mib"]),
    "CPU that is not there": ("cpus = [3]", "cpus = [9]", ["spawned[0].cpus", "the machine has 4"]),
    "pool beyond the memory": ("start = 0x4000_0000", "start = 0x7fff_f000", ["pool", "beyond"]),
    "bus": ('line = "host"', 'line = "host"\nbus = "ias"', ["serial[2].bus", "did you mean isa", "pci"]),
}


@pytest.mark.parametrize("lie", TOPOLOGY_LIES)
def test_machine_that_cannot_be_is_named(tmp_path, lie):
    was, becomes, named = TOPOLOGY_LIES[lie]
    text = (paths.TOPOLOGIES / "pair.toml").read_text()
    assert was in text
    with pytest.raises(UsageError) as caught:
        load_topology(written(tmp_path, text.replace(was, becomes, 1)))
    assert [word for word in ["mine.toml", "line", *named] if word not in str(caught.value)] == []


def test_the_command_ends_with_2_and_writes_nothing(tmp_path):
    program = Path(sys.executable).with_name("mkh")
    environment = {**os.environ, "MKHARNESS_CACHE": str(tmp_path / "cache")}
    name = written(tmp_path, GOOD.replace("dialect = ", "dialekt = "))
    ended = subprocess.run([program, "build", name], env=environment, capture_output=True, check=False)
    assert ended.returncode == 2
    assert b"line 2, dialekt" in ended.stderr
    assert not ended.stdout
    assert not (tmp_path / "cache").exists()


VALUES = st.recursive(
    st.text(max_size=8)
    | st.integers()
    | st.booleans()
    | st.floats()
    | st.sampled_from(["base", "v1", "pair"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)


def toml(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return '"' + "".join(f"\\U{ord(c):08x}" for c in value if not 0xD800 <= ord(c) < 0xE000) + '"'
    if isinstance(value, list):
        return "[" + ", ".join(map(toml, value)) + "]"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{toml(key)} = {toml(each)}" for key, each in value.items()) + "}"
    return str(value)


KEYS = ("summary", "dialect", "configs", "topology", "bases", "series", "modules", "files", "ssh", "expects")


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    values=st.dictionaries(st.sampled_from(KEYS), VALUES),
    cut=st.integers(0, 200),
    noise=st.binary(max_size=6),
)
def test_whatever_stands_there_is_read_or_refused(tmp_path, values, cut, noise):
    text = "\n".join(f"{key} = {toml(value)}" for key, value in values.items()).encode()
    for content in (text, text[:cut] + noise + text[cut:]):
        for load in (load_definition, load_topology):
            try:
                load(written(tmp_path, content))
            except UsageError as error:
                assert "mine.toml" in str(error)  # noqa: PT017


@given(st.lists(st.sampled_from(["a = 1", "b = [", "2,", "]", "[t]", "[[u]]", "# x", "", 'c = """', '"""'])))
def test_line_is_where_the_key_is(lines):
    text = "\n".join([*lines, "[zz]", "", "last = 5"])
    try:
        data = tomlfile.tomllib.loads(text)
    except ValueError:
        return
    assert tomlfile.line_of(text, ("zz", "last")) == len(lines) + 3
    assert data["zz"] == {"last": 5}
