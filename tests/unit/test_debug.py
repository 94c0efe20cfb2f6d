# SPDX-License-Identifier: MIT
"""`mkh debug` on kept failures, and machines that other processes serve, without a machine."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from harness import debugging, failure, pause
from harness.debug import gdb
from harness.debug.cores import Core
from harness.errors import HarnessError, UsageError
from harness.failure import Failure, Kernel
from harness.model import Region
from harness.tui import remote, serve

MKH = Path(sys.executable).parent / "mkh"


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("MKHARNESS_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def kept(cache):
    made = Failure(
        test="tests/conformance/starting/test_pair.py::test_two",
        ended=time.time(),
        why="alpha does not \x1b]2;evil\x07answer",
        explanation="alpha does not answer\n\x1b[31mvCPU 3 stands still\x1b]52;c;ZXZpbA==\x07",
        kernel="reference",
        kernels=(Kernel("host", vmlinux="/nowhere/vmlinux"), Kernel("alpha", vmlinux="/nowhere/vmlinux")),
        commands={"repeat it": "pytest this"},
    )
    files = {"vcpus.txt": "vCPU 0: host, idle\nvCPU 0: RAX=0x1 RBX=0x2\n", "console-host.log": "hello\n"}
    return failure.keep(made, files)


def mkh(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([MKH, "debug", *words], capture_output=True, text=True, check=False, env=os.environ)


def test_without_a_name_it_lists_what_is_kept(kept):
    done = mkh()
    assert done.returncode == 0
    assert kept.name in done.stdout
    assert "no memory kept" in done.stdout


def test_with_a_name_it_tells_why_and_how_to_go_on(kept):
    done = mkh("last")
    assert done.returncode == 0
    assert "vCPU 3 stands still" in done.stdout
    assert "vCPU 0: host, idle" in done.stdout
    assert "RAX=" not in done.stdout
    assert "pytest this" in done.stdout
    assert "console-host.log" in done.stdout
    assert not any(ord(one) < 32 and one != "\n" for one in done.stdout)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["nothing-like-it"], "there is no kept failure"),
        (["last", "--gdb"], "no memory was kept"),
        (["last", "--gdb", "--drgn"], "two debuggers"),
        (["--gdb"], "no name"),
    ],
)
def test_what_makes_no_sense_is_told(kept, words, told):
    done = mkh(*words)
    assert done.returncode == 2
    assert told in done.stderr
    assert "What to do" in done.stderr


def test_what_is_missing_is_told_with_the_command_that_mends_it(monkeypatch):
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.setattr(debugging.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(HarnessError, match="gdb is not installed") as caught:
        debugging.require("gdb")
    assert "apt-get install gdb" in caught.value.advice
    with pytest.raises(HarnessError, match="drgn is not installed") as caught:
        debugging.require("drgn")
    assert "pip install drgn" in caught.value.advice


def test_a_script_for_gdb_names_each_kernel_with_its_own_symbols():
    host = gdb.Kernel("host", Path("/a/vmlinux"), 0, (Region(0, 0x1000),))
    alpha = gdb.Kernel("alpha", Path("/b/vmlinux"), 0x200000, (Region(0x1000, 0x1000),))
    said = gdb.script([host, alpha], "target remote /tmp/socket").splitlines()
    assert "symbol-file -o 0x0 /a/vmlinux" in said
    assert said[-1] == "target remote /tmp/socket"
    known = next(line for line in said if line.startswith("python mkh_kernels = "))
    assert json.loads(known.partition(" = ")[2])[1] == {
        "name": "alpha",
        "vmlinux": "/b/vmlinux",
        "offset": 0x200000,
        "memory": [[0x1000, 0x2000]],
    }


def test_what_is_no_core_file_is_refused(tmp_path):
    file = tmp_path / "file"
    file.write_bytes(b"no core" * 100)
    with pytest.raises(HarnessError, match="no core file"), Core(file):
        pass
    file.write_bytes(b"")
    with pytest.raises(HarnessError, match="cannot be read"), Core(file):
        pass


def test_entries_of_dead_processes_are_removed(cache):
    assert serve.entries() == []
    serve.folder().mkdir(parents=True)
    file = serve.folder() / "old.json"
    file.write_text('{"name":"old","pid":1,"socket":"/nowhere/socket","title":"t","since":1.0}')
    assert serve.entries() == []
    assert not file.exists()
    with pytest.raises(UsageError, match="no machine to attach to"):
        remote.find("old")


@pytest.mark.parametrize(
    ("test", "name"),
    [
        ("test_two", "test_two"),
        ("test_it[a b/c-'x']", "test_it-a-b-c-x"),
        ("[]", "test"),
        ("x" * 80, "x" * 50),
    ],
)
def test_a_machine_that_waits_has_a_name_to_type(test, name):
    assert pause.name_of(test) == name
