# SPDX-License-Identifier: MIT
"""Kernels that hand nothing over, or want nothing: parameters off, and an ordinary kexec."""

import pytest

from harness.kexec import go, kexec, load, pack_for_more
from harness.lab import Lab
from harness.multikernel.handover import DEVICE, KHO, LiveUpdate, opened
from harness.multikernel.kernel import Kernel
from harness.plugin import Seen, claim
from harness.vm.ram_pages import PAGE

PARAMETERS = "Documentation/admin-guide/kernel-parameters.txt"
LUO = "Documentation/core-api/liveupdate.rst"
KHO_ADMIN = "Documentation/admin-guide/mm/kho.rst"

pytestmark = pytest.mark.needs("kho", "luo")


def total_mib(kernel: Kernel) -> int:
    return int(kernel.run("awk '/MemTotal/ { print $2 }' /proc/meminfo")) >> 10


@claim(
    "a kernel with kho=off takes nothing over, has no live update, and all memory is its own",
    source=PARAMETERS,
)
def test_successor_refuses(lab: Lab, luo: LiveUpdate, seen: Seen) -> None:
    before, size = total_mib(lab.host), 256 << 20
    luo.create("unwanted").require()
    luo.memfd("data", size).require()
    luo.preserve("unwanted", "data", 1).require()
    kexec(lab, change={"kho": "off"})
    there = lab.host.run(f"ls -d {DEVICE} {KHO}/* 2>/dev/null || true")
    after = total_mib(lab.host)
    seen(f"{there or 'no trace of KHO'}; {after} MiB in all, the predecessor had {before}")
    assert not there
    assert before - after < 128, "what was handed over is lost to the kernel that does not want it"


@claim(
    "a kernel with kho=off reboots by kexec as kernels always did, and its successor starts anew",
    source=KHO_ADMIN,
)
def test_plain_kexec(lab: Lab, seen: Seen) -> None:
    kexec(lab, initrd=pack_for_more(lab), change={"kho": "off"})
    mark = lab.host.console.mark
    kexec(lab, change={"kho": "on"})
    said = lab.host.console.transcript[mark:].decode(errors="replace")
    listed = lab.host.run(f"ls {KHO}")
    seen(f"{KHO}: {listed}")
    assert "handover data" not in said
    assert listed == "out"
    fresh = opened(lab.host)
    assert fresh.retrieve("nothing").error == "ENOENT"
    fresh.create("works").require()
    # A pool, where there is one, is nobody's for a host whose predecessor had none to give.
    lab.machine.end()


@claim("liveupdate=off leaves KHO alone as it is, and sessions handed over are not to be had", source=LUO)
def test_live_update_off(lab: Lab, luo: LiveUpdate, seen: Seen) -> None:
    luo.create("unwanted").require()
    luo.memfd("data", PAGE).require()
    luo.preserve("unwanted", "data", 1).require()
    kexec(lab, change={"liveupdate": "off"})
    listed = lab.host.run(f"ls {KHO}; ls {DEVICE} 2>/dev/null || true").split()
    seen(", ".join(listed))
    assert listed == ["in", "out"]


@claim("a successor that is handed no session finds none, and can make its own", source=LUO)
def test_no_session(lab: Lab, seen: Seen) -> None:
    kexec(lab)
    new = opened(lab.host)
    outcome = new.retrieve("nothing")
    seen(f"retrieve: {outcome.error}")
    assert outcome.error == "ENOENT"
    new.create("nothing").require()


@claim("an image that was unloaded again takes the handover along with it; sessions stay", source=KHO_ADMIN)
def test_unloaded(lab: Lab, luo: LiveUpdate, seen: Seen) -> None:
    host = lab.host
    luo.create("stays").require()
    luo.memfd("data", PAGE).require()
    luo.preserve("stays", "data", 1).require()
    load(lab)
    host.run("mkctl unload-file 0")
    boot_id = host.read("/proc/sys/kernel/random/boot_id")
    go(lab)
    host.run("sleep 1")
    assert host.read("/proc/sys/kernel/random/boot_id") == boot_id, "it went, with nothing loaded"
    kexec(lab)
    new = opened(host)
    new.retrieve("stays").require()
    new.fetch("stays", 1, "data").require()
    seen("refused without an image; with one loaded anew the session is there")
