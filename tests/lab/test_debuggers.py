# SPDX-License-Identifier: MIT
"""gdb and drgn on a real machine with two kernels: each kernel by its own name, with its own stacks.

Of kernels that choose their addresses, too: give --bzimage and --vmlinux of one with RANDOMIZE_BASE.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness.debug import gdb
from harness.debug.cores import Core, Found
from harness.debug.live import Debugging
from harness.debugging import has_types
from harness.klog.symbols import Symbols
from harness.lab import Lab, Pair
from harness.tui.remote import RemoteSource
from harness.tui.serve import Served
from harness.tui.source import LabSource
from harness.vm.ram import ram_of
from harness.vm.registers import registers_of
from harness.vm.vmcore import write_vmcore

OUTERMOST = r"secondary_startup_64|ret_from_fork|entry_SYSCALL_64|asm_"
"""What the outermost frame of a whole stack is called."""
needs_gdb = pytest.mark.skipif(shutil.which("gdb") is None, reason="gdb is not installed")


@pytest.fixture
def debugging(pair: Pair) -> Debugging:
    return Debugging(pair.lab)


@pytest.fixture
def whole(pair: Pair, tmp_path: Path) -> Iterator[Core]:
    machine, path = pair.lab.machine, tmp_path / "machine.vmcore"
    machine.freeze()
    write_vmcore(ram_of(machine), registers_of(machine.qmp), path)
    machine.thaw()
    with Core(path) as core:
        yield core


def names(lab: Lab) -> dict[str, Path]:
    return {"host": lab.build.vmlinux, "alpha": lab.build.spawned_vmlinux}


def run(file: Path, *commands: str) -> str:
    words = ["gdb", "-nx", "-q", "-batch", "-x", str(file)]
    for command in commands:
        words += ["-ex", command]
    done = subprocess.run(
        words, capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=120, check=False
    )
    said = done.stdout + done.stderr
    assert "Python Exception" not in said, said
    return said


def test_a_core_file_tells_which_kernels_are_in_it_and_on_which_vcpus(pair: Pair, whole: Core) -> None:
    found = {one.name: one for one in whole.kernels(names(pair.lab))}
    assert found.keys() == {"host", "alpha"}
    vcpus = {name: {vcpu for _, vcpu in one.threads} for name, one in found.items()}
    # One that ran a program just then has the program's GS.
    assert vcpus["host"] <= {0, 1, 2}
    assert vcpus["host"]
    assert vcpus["alpha"] <= {3}
    alpha = found["alpha"].info
    assert pair.instance.ram.start <= alpha.address < pair.instance.ram.end
    assert alpha.phys_base != found["host"].info.phys_base


@needs_gdb
def test_gdb_shows_each_kernels_own_memory_and_a_whole_stack(pair: Pair, whole: Core, tmp_path: Path) -> None:
    for kernel in whole.kernels(names(pair.lab)):
        own, file = tmp_path / f"{kernel.name}.vmcore", tmp_path / f"{kernel.name}.gdb"
        whole.write_for(kernel, own)
        known = gdb.Kernel(kernel.name, kernel.vmlinux, kernel.offset)
        file.write_text(gdb.script([known], f"core-file {own}"))
        field = "x/s (char*)&init_uts_ns+{}"
        offset = _nodename(whole, kernel)
        said = run(file, "kernels", "thread apply all bt 40", field.format(offset))
        assert f'"{kernel.name}"' in said, said
        if kernel.threads:
            assert re.search(OUTERMOST, said), said


def _nodename(core: Core, kernel: Found) -> int:
    address = Symbols(kernel.vmlinux).address("init_uts_ns")
    assert address is not None
    assert kernel.info.phys_base is not None
    there = kernel.info.phys_base + address + kernel.offset - 0xFFFFFFFF80000000
    return core.read(there, 512).index(b"Linux\0") + 65


@needs_gdb
def test_gdb_on_a_live_machine_follows_the_kernels(pair: Pair, debugging: Debugging) -> None:
    strings = "x/90s (char*)&init_uts_ns"
    said = run(debugging.gdb(), "kernels", "kernel alpha", "bt 30", strings, "detach")
    assert re.search(r"^ +1 +host +\w+( \+ \d+)? in section", said, re.MULTILINE), said
    assert re.search(r"^ +4 +alpha +\w+( \+ \d+)? in section", said, re.MULTILINE), said
    assert re.search(r"^#1 ", said, re.MULTILINE), said
    assert re.search(OUTERMOST, said), said
    assert '"alpha"' in said
    assert '"host"' in run(debugging.gdb(), "kernel host", strings, "detach")
    # The machine goes on, and can be attached to once more.
    assert pair.host.run("echo there").strip() == "there"
    assert "alpha" in run(debugging.gdb(), "kernels", "detach")
    assert pair.spawned.run("echo there").strip() == "there"


def test_drgn_reads_a_spawned_kernels_memory(pair: Pair, debugging: Debugging) -> None:
    pytest.importorskip("drgn")
    core, vmlinux = debugging.dump("alpha")
    assert pair.host.run("echo there").strip() == "there"
    if not has_types(vmlinux):
        pytest.skip("the kernel has no debug information: --kernel NAME+debug-info")
    script = (
        "from drgn.helpers.linux import cpu_curr\n"
        "print(prog['init_uts_ns'].name.nodename.string_().decode())\n"
        "print(prog.stack_trace(cpu_curr(prog, 0)))"
    )
    words = [sys.executable, "-m", "drgn", "-q", "-c", str(core), "-s", str(vmlinux), "-e", script]
    done = subprocess.run(words, capture_output=True, text=True, timeout=120, check=False)
    assert done.stdout.startswith("alpha\n#0"), done.stdout + done.stderr


LISTING = """
from drgn.helpers.linux import for_each_task
for _ in range(200): names = [task.comm.string_().decode() for task in for_each_task(prog)]

print("tasks", len(names), names[0], "sh" in names, prog["init_uts_ns"].name.nodename.string_().decode())
"""


def test_drgn_lists_the_tasks_of_kernels_that_make_new_ones(pair: Pair) -> None:
    """The memory is written while all stands still, so no list is caught while it changes."""
    pytest.importorskip("drgn")
    if not has_types(pair.lab.build.vmlinux):
        pytest.skip("the kernel has no debug information: --kernel NAME+debug-info")
    for kernel in (pair.host, pair.spawned):
        kernel.run("(while :; do (sleep 0.01 & sleep 0.02 & wait); done) >/dev/null 2>&1 &")
    with Served(LabSource(pair.lab, "here", ["host", "alpha"]), f"drgn-{os.getpid()}") as served:
        for name in ("host", "alpha", "host", "alpha"):
            words = [
                str(Path(sys.executable).parent / "mkh"),
                "debug",
                served.entry.name,
                "--drgn",
                "--of",
                name,
            ]
            done = subprocess.run(
                words, input=LISTING, capture_output=True, text=True, timeout=240, check=False
            )
            said = done.stdout + done.stderr
            assert re.search(rf"tasks \d+ \w+ True {name}", said), said
            assert not re.search("Traceback|FaultError:", said), said
            assert "all kernels standing still" in said
            assert done.returncode == 0, said
    assert pair.host.run("echo there").strip() == "there"


def test_a_machine_is_looked_at_from_another_process(pair: Pair) -> None:
    source = LabSource(pair.lab, "here", ["host", "alpha"])
    with Served(source, "a-test") as served, RemoteSource(served.entry) as remote:
        assert remote.kernels == ("host", "alpha")
        remote.type("alpha", b"echo $((40+2))-there\n")
        pair.spawned.console.expect("42-there")
        for _ in range(200):
            if b"42-there" in remote.read("alpha", 0):
                break
            pair.host.run("true")
        assert b"42-there" in remote.read("alpha", 0)
        assert re.search(r"^3 +3 +alpha +\S+ +\w+\+0x[0-9a-f]{1,4}( |$)", remote.ask("vcpus"), re.MULTILINE)
        assert "claimed by" in remote.ask("map")
        assert remote.ask("toggle") == "stopped"
        assert remote.ask("toggle") == "running"
        assert "QEMU" not in remote.ask("monitor", "info status")
        assert "mkh console --attach a-test" in remote.ask("attach")
        assert pair.host.run("echo there").strip() == "there"
