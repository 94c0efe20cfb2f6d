# SPDX-License-Identifier: MIT
"""The multikernel file system: what its files say, and what must not be done to them."""

import shlex
import time

import fdt
import pytest
from msgspec.structs import replace

from harness.capabilities import interface_of
from harness.definition import SpawnedKernel, load_topology
from harness.klog.symbols import Symbols
from harness.lab import Lab
from harness.multikernel import calls, census
from harness.multikernel.interface import MOUNT, Interface
from harness.plugin import Seen, claim
from harness.vm import gdbstub

pytestmark = pytest.mark.needs("instances")

POISONED = replace(load_topology("pair"), arguments=("slab_debug=P",))
"""A machine whose host overwrites what it frees: what is read of it then is no answer at all."""
LAST_STEPS = ("kernfs_remove_self", "kernfs_remove")
"""Functions of the kernel's, one of which takes an instance's directory away."""
HELD, LOOKS = 2.0, 40
"""Seconds, before scaling, that a removal stands still there; and looks at the files, ten a second."""


@claim("an instance's files tell its id and state", source="RFC v2 08/16: instances/<name>/")
def test_instance_files(mk: Interface, ready: SpawnedKernel, seen: Seen) -> None:
    folder = f"{MOUNT}/instances/{ready.name}"
    id, status = (mk.host.read(f"{folder}/{name}") for name in ("id", "status"))
    seen(f"id {id!r}, status {status!r}")
    assert (id, status) == (f"{ready.id}", "ready")


@claim("an instance's CPUs go offline, its memory is named in /proc/iomem", source="RFC v2 04/16, 06/16")
def test_resources(lab: Lab, mk: Interface, ready: SpawnedKernel, seen: Seen) -> None:
    online = lab.host.read("/sys/devices/system/cpu/online").strip()
    region = mk.region(ready.name)
    seen(f"online {online}; {region}")
    assert str(ready.cpus[0]) not in online.replace("-", ",").split(","), "its CPU is online in the host"
    assert region.size == ready.memory
    assert lab.topology.pool.region.contains(region)


@claim(
    "an instance that is removed gives its CPUs, memory and names back",
    source="RFC v2 08/16: rmdir of an instance; interface sheet RC-P4",
)
@pytest.mark.needs("remove")
def test_given_back(lab: Lab, mk: Interface, alpha: SpawnedKernel, seen: Seen) -> None:
    before = census.take(lab.host)
    mk.create(alpha).require()
    mk.remove(alpha.name).require()
    lost = census.take(lab.host).lost_since(before)
    seen("; ".join(lost) or f"{', '.join(before.lists)} as before")
    assert not lost, "\n".join(lost)


@claim(
    "an instance's device_tree_source tells its id, CPUs and memory",
    source="RFC v2 10/16: instances/<name>/device_tree_source",
)
def test_device_tree_source(mk: Interface, alpha: SpawnedKernel, bravo: SpawnedKernel, seen: Seen) -> None:
    both = replace(alpha, cpus=(*bravo.cpus, *alpha.cpus))
    mk.create(both).require()
    text = mk.host.run(f"cat {MOUNT}/instances/{both.name}/device_tree_source 2>/dev/null || true")
    if not text:
        pytest.skip("this series has no device_tree_source")
    seen(" ".join(text.split()))
    assert text.startswith("/dts-v1/;")
    assert f"id = <{both.id}>;" in text
    assert f"memory-bytes = <{both.memory:#x}>;" in text
    cells = " ".join(f"{byte:02x}" for cpu in both.cpus for byte in cpu.to_bytes(4))
    assert f"cpus = [{cells}];" in text or f"cpus = <{' '.join(map(str, both.cpus))}>;" in text


@claim(
    "what is read from device_tree is a device tree of the instances",
    source="multikernel tree: device_tree is generated from the live state",
)
@pytest.mark.needs("read-back")
def test_read_back(mk: Interface, ready: SpawnedKernel, bravo: SpawnedKernel, seen: Seen) -> None:
    mk.create(bravo).require()
    made = fdt.parse_dtb(mk.host.channel.get(f"{MOUNT}/device_tree"))
    names = sorted(node.name for node in made.get_node("/instances").nodes)
    seen(f"instances {names}")
    assert names == [ready.name, bravo.name]
    for kernel in (ready, bravo):
        path = f"/instances/{kernel.name}"
        assert made.get_property("id", path).value == kernel.id
        assert made.get_property("cpus", f"{path}/resources").data == list(kernel.cpus)


@claim(
    "nothing is made, named anew or taken away but by its own means", source="RFC v2 08/16: mkdir is EPERM"
)
def test_foreign_changes(mk: Interface, ready: SpawnedKernel, seen: Seen) -> None:
    folder = f"{MOUNT}/instances"
    # Cutting is left out: where kernfs opens a file for it, nothing is cut.
    lines = [
        f"mkdir s:{folder}/new 0755", f"mkdir s:{MOUNT}/new 0755", f"rmdir s:{folder}", f"rmdir s:{MOUNT}",
        f"open s:{folder}/new 0x41 0644", f"rename s:{folder}/{ready.name} s:{folder}/other",
        f"unlink s:{folder}/{ready.name}/id", f"unlink s:{MOUNT}/device_tree", f"symlink s:/ s:{folder}/link",
        f"link s:{MOUNT}/device_tree s:{folder}/link",
        f"write fdw:{folder}/{ready.name}/id hex:32 1", f"mmap 0 4096 3 1 fd:{folder}/{ready.name}/id 0",
        f"rmdir s:{folder}/nowhere",
    ]  # fmt: skip
    before = mk.host.run(f"find {MOUNT} | sort")
    outcomes = calls.calls(mk.host, lines)
    seen(", ".join(outcome.error or "accepted" for outcome in outcomes))
    taken = [str(outcome) for outcome in outcomes if outcome.ok]
    assert not taken, "\n".join(taken)
    assert mk.host.run(f"find {MOUNT} | sort") == before
    assert mk.state(ready.name) == "ready"


@claim("other users read no instance into being, and remove none", source="interface sheet PS-N1")
def test_other_users(mk: Interface, ready: SpawnedKernel, bravo: SpawnedKernel, seen: Seen) -> None:
    mk.host.run("chmod 644 /run/tree.dtb")
    lines = [
        f"uid:1000 {mk.write_tree_call('/run/tree.dtb')}",
        f"uid:1000 {mk.remove_call(ready.name)}",
        f"uid:1000 chmod s:{MOUNT}/device_tree 0777",
    ]
    outcomes = calls.calls(mk.host, lines)
    seen(", ".join(outcome.error or "accepted" for outcome in outcomes))
    assert {outcome.error for outcome in outcomes} <= {"EPERM", "EACCES"}, "\n".join(map(str, outcomes))
    assert mk.names() == [ready.name]


@claim("mounted twice it is the same file system", source="interface sheet PS-P2")
@pytest.mark.needs("remove")
def test_mounted_twice(mk: Interface, ready: SpawnedKernel, seen: Seen) -> None:
    mk.host.run("mkdir /run/second; mount -t multikernel none /run/second")
    both = [mk.host.run(f"cat {root}/instances/*/status") for root in (MOUNT, "/run/second")]
    mk.call(f"rmdir s:/run/second/instances/{ready.name}").require()
    seen(f"{both}, then {mk.names()}")
    assert both == ["ready", "ready"]
    assert mk.names() == []
    mk.host.run("umount /run/second")
    mk.create(ready).require()


@claim("instances outlive the unmounting of their file system", source="interface sheet PS-P2")
def test_unmounted(mk: Interface, ready: SpawnedKernel, seen: Seen) -> None:
    busy = mk.host.run(
        f"exec 9<{MOUNT}/device_tree; umount {MOUNT} 2>/dev/null && echo gone || echo busy; exec 9<&-"
    )
    mk.host.run(f"while umount {MOUNT} 2>/dev/null; do :; done; ! grep -q ' {MOUNT} ' /proc/mounts")
    mk.mount()
    seen(f"while a file was open: {busy}; mounted again: {ready.name} is {mk.state(ready.name)}")
    assert busy == "busy"
    assert mk.state(ready.name) == "ready"


@claim("options that it does not have are refused", source="mount(2): EINVAL")
def test_mount_options(mk: Interface, seen: Seen) -> None:
    mk.host.run("mkdir -p /run/other")
    lines = [
        f"mount s:none s:/run/other s:multikernel 0 s:{option}" for option in ("nonsense", "size=1", "%ff")
    ]
    outcomes = calls.calls(mk.host, lines)
    seen(", ".join(outcome.error or "accepted" for outcome in outcomes))
    assert {outcome.error for outcome in outcomes} == {"EINVAL"}, "\n".join(map(str, outcomes))


@claim("nobody mounts it in a namespace of his own", source="interface sheet PS-P2: must be EPERM")
@pytest.mark.needs("userns")
def test_user_namespace(mk: Interface, seen: Seen) -> None:
    mk.host.run("mkdir -p /run/other && chmod 777 /run/other")
    outcome = mk.call("uid:1000 userns mount s:none s:/run/other s:multikernel 0 null")
    seen(outcome.error or "accepted")
    assert outcome.error == "EPERM"


@claim(
    "readers are served while instances come and go",
    source="known bug V2-14: a status is read after it was freed",
)
@pytest.mark.needs("remove")
@pytest.mark.parametrize("seed", [1, 2])
def test_readers_against_removal(
    lab: Lab, mk: Interface, ready: SpawnedKernel, seen: Seen, seed: int
) -> None:
    folder = f"{MOUNT}/instances/{ready.name}"
    files = mk.host.run(f"ls {folder}").split()
    loops = [f"{mk.remove_call(ready.name)};{mk.write_tree_call('/run/tree.dtb')}"]
    loops += [f"read fd:{folder}/{name} out:4096 4096" for name in files]
    loops += [f"read fd:{MOUNT}/device_tree out:4096 4096", "read fd:/proc/iomem out:4096 4096"]
    steps = calls.race(mk.host, loops, seed=seed, seconds=3)
    for step in steps:
        seen(str(step))
        assert set(step.ended) <= {"", "ENOENT", "ENODEV", "EEXIST"}, step
    removed = next(step for step in steps if step.call.startswith("rmdir"))
    assert removed.ended.get(""), "nothing was removed"


@claim(
    "what is read of an instance while its files are taken away is its own, or nothing",
    source="known bug V2-14: the instance is freed before its files are gone",
)
@pytest.mark.needs("remove")
@pytest.mark.parametrize("machine", [POISONED], indirect=True, ids=["freed memory is overwritten"])
def test_read_while_removed(machine: Lab, seen: Seen) -> None:
    mk, host, granted = interface_of(machine), machine.host, machine.topology.spawned[0]
    mk.create(granted).require()
    folder = f"{MOUNT}/instances/{granted.name}"
    look = f"for file in id status; do read -r word <{folder}/$file && echo $file $word; done"
    looks = f"n=0; while [ $((n += 1)) -le {LOOKS} ]; do {look}; usleep 100000; done; >/run/looked"
    symbols = Symbols(machine.build.vmlinux)
    with gdbstub.attached(machine.machine) as gdb:
        for name in LAST_STEPS:
            if (address := symbols.address(name)) is not None:
                gdb.watch(address, 1, "execute")
        gdb.run()
        # Each on a CPU of its own, so that the one can stand still while the other runs.
        host.run(f"taskset -c 1 sh -c {shlex.quote(looks)} >/run/words 2>/dev/null &")
        host.later(f"exec taskset -c 2 rmdir {folder}")
        gdb.run_all_but(gdb.wait(20.0 * host.factor).vcpu)
        time.sleep(HELD * host.factor)
    host.run("until [ -e /run/looked ]; do usleep 50000; done", timeout=30)
    told = set(host.run("sort -u /run/words").splitlines())
    seen(", ".join(sorted(told)))
    assert mk.names() == []
    assert told == {f"id {granted.id}", "status ready"}
