# SPDX-License-Identifier: MIT
"""The kernel's own tests of KHO and LUO, unchanged, from the source of the kernel under test.

They come with stages around a kexec, which the harness does. Their verdicts are ours.
"""

import re
from dataclasses import replace
from pathlib import Path

import pytest

from harness.build import Build, initramfs, store
from harness.build.selftests import selftests
from harness.definition import Topology
from harness.kexec import kexec
from harness.lab import BOOT_TIMEOUT, Lab, machine_spec
from harness.multikernel.handover import LiveUpdate, opened
from harness.multikernel.kernel import Kernel
from harness.plugin import Seen, claim
from harness.progress import Progress
from harness.vm.accel import choose
from harness.vm.machine import Machine
from harness.vm.ram_pages import PAGE

SELFTESTS = "tools/testing/selftests"

pytestmark = pytest.mark.needs("kho", "luo")


def compiled(build: Build, name: str) -> bytes:
    if not store.read_meta(build.folder).source_tree:
        pytest.skip("the kernel was built elsewhere: its source, with its tests, is not here")
    with Progress().step("compiling the kernel's own tests of handover") as step:
        return selftests(build, step)[name]


def run(kernel: Kernel, program: bytes, words: str = "") -> tuple[int, str]:
    """Run a test in a kernel; return its exit status and what it printed."""
    kernel.channel.put("/run/selftest", program, 0o755)
    done = kernel.channel.run(f"cd /run && ./selftest {words} 2>&1", timeout=120)
    return done.status, done.stdout.decode(errors="replace")


@claim("the kernel's own tests of sessions and files pass, one by one", source=f"{SELFTESTS}/liveupdate")
def test_liveupdate(lab: Lab, build: Build, seen: Seen) -> None:
    status, said = run(lab.host, compiled(build, "liveupdate"))
    points = re.findall(r"^(ok|not ok) (\d+) (.*)$", said, re.MULTILINE)
    planned = re.search(r"^1\.\.(\d+)$", said, re.MULTILINE)
    for verdict, _, name in points:
        seen(f"{verdict} {name}")
    assert planned, f"it planned nothing:\n{said}"
    assert [int(number) for _, number, _ in points] == list(range(1, int(planned[1]) + 1)), said
    bad = [f"{verdict} {name}" for verdict, _, name in points if verdict != "ok" or "# SKIP" in name]
    assert (status, bad) == (0, []), said


@claim("the kernel's own tests in two stages pass across a kexec", source=f"{SELFTESTS}/liveupdate")
def test_stages(lab: Lab, build: Build, seen: Seen) -> None:
    # Each keeps its state in a session of its own, so one kexec is the second stage of all.
    names = ("luo_kexec_simple", "luo_multi_session", "luo_stress_files", "luo_stress_sessions")
    for name in names:
        status, said = run(lab.host, compiled(build, name), "-s 1")
        assert status == 0, f"{name}: {said}"
    kexec(lab)
    for name in names:
        status, said = run(lab.host, compiled(build, name), "-s 2")
        verdict = re.findall(r"^--- (.*) ---$", said, re.MULTILINE)
        seen(f"{name}: {', '.join(verdict) or 'no verdict'}, exit status {status}")
        assert status == 0, f"{name}: {said}"
        assert len(verdict) == 1, f"{name}: {said}"
        assert "PASSED" in verdict[0], f"{name}: {said}"


@claim("the kernel's own test of KHO passes: what it saved at boot is restored", source=f"{SELFTESTS}/kho")
@pytest.mark.needs("kho-tests")
def test_kho(
    build: Build, topology: Topology, tmp_path: Path, pytestconfig: pytest.Config, seen: Seen
) -> None:
    # Its init goes by kexec into a kernel without user space, which ends by a panic: as their script has it.
    files = {"init": compiled(build, "kho"), "kernel": build.bzimage.read_bytes()}
    folders = {f"{folder}/.keep": b"" for folder in ("proc", "debugfs")}
    initrd = tmp_path / "initrd.cpio"
    initrd.write_bytes(initramfs.archive(files | folders, initramfs.DEVICES))
    usual = machine_spec(build, topology)
    spec = replace(usual, initrd=initrd, cmdline=f"{usual.cmdline} panic=-1")
    with Machine(spec, choose(pytestconfig.getoption("--accel"))) as machine:
        console = machine.console("host")
        verdict = console.expect(
            r"KHO restore \w+(?=\r)|not syncing", timeout=2 * BOOT_TIMEOUT, trouble=False
        )
        machine.wait_end(BOOT_TIMEOUT)
        text = console.text
    data = re.search(r"KHO: exec from: .*", text)
    seen(f"{verdict[0]}; {data[0] if data else 'nothing handed over'}")
    assert verdict[0] == "KHO restore succeeded", text[-3000:]


@claim("the kernel's own test of global data that belongs to files finds it", source="lib/tests/liveupdate.c")
@pytest.mark.needs("kho-tests")
def test_global_data(lab: Lab, luo: LiveUpdate, seen: Seen) -> None:
    luo.create("session").require()
    luo.memfd("data", PAGE).require()
    luo.preserve("session", "data", 1).require()
    kexec(lab)
    new = opened(lab.host)
    new.retrieve("session").require()
    new.fetch("session", 1, "data").require()
    new.finish("session").require()
    said = lab.host.run("dmesg | grep -i 'test-flb'")
    for line in said.splitlines():
        seen(line.partition("] ")[2])
    for index in range(3):
        assert f"liveupdate-test-flb-v{index}: found flb data from the previous boot" in said
        assert f"liveupdate-test-flb-v{index}: finish was triggered" in said
    assert not re.search("ERROR|[Ff]ailed", said)
