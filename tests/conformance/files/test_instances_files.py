# SPDX-License-Identifier: MIT
"""What an instance's files tell of it, and who waits for a change of its state."""

import time
from collections.abc import Callable

import pytest
from msgspec.structs import replace

from harness.definition import SpawnedKernel
from harness.lab import Lab
from harness.multikernel.calls import Holder
from harness.multikernel.devicetree import nodes_of
from harness.multikernel.interface import MOUNT, Interface
from harness.multikernel.payload import grant_payload
from harness.plugin import Seen, claim

pytestmark = pytest.mark.needs("instances", "read-back", "halt", "unload")

SYS_POLL, POLLPRI, POLLERR = 7, 0x2, 0x8
WAKE_LIMIT = 5.0
"""Seconds until somebody who waits must have been woken, before scaling by the accelerator."""


@claim(
    "the files of an instance tell its CPUs and its memory as they are, each instance its own",
    source="kernels/reference/README.md: instances/<name>/memory; RFC v2 08/16: instances/<name>/",
)
def test_resources_told(mk: Interface, alpha: SpawnedKernel, bravo: SpawnedKernel, seen: Seen) -> None:
    both = (replace(alpha, cpus=(*alpha.cpus, alpha.cpus[0] - 2)), replace(bravo, memory=12 << 20))
    mk.create(*both).require()
    for kernel in both:
        folder, region = f"{MOUNT}/instances/{kernel.name}", mk.region(kernel.name)
        cpus, memory = (mk.host.read(f"{folder}/{name}").strip() for name in ("cpus", "memory"))
        seen(f"{kernel.name}: CPUs {cpus}, memory {memory}")
        assert cpus == ",".join(map(str, kernel.cpus))
        assert memory == f"{region.start:#x} {kernel.memory:#x}", f"/proc/iomem says {region}"


@claim(
    "a device tree that is read is a whole one and nothing else: of all instances at the top,"
    " of one in its own directory",
    source="RFC v2 10/16: instances/<name>/device_tree; Devicetree Specification 5.2: totalsize",
)
def test_device_trees_told(mk: Interface, alpha: SpawnedKernel, bravo: SpawnedKernel, seen: Seen) -> None:
    both = (replace(alpha, cpus=(*alpha.cpus, alpha.cpus[0] - 2)), replace(bravo, memory=12 << 20))
    mk.create(*both).require()
    files = {f"{MOUNT}/device_tree": both}
    files |= {f"{MOUNT}/instances/{kernel.name}/device_tree": (kernel,) for kernel in both}
    for file, kernels in files.items():
        blob = mk.host.channel.get(file)
        total = int.from_bytes(blob[4:8], "big")
        seen(f"{file}: {len(blob)} bytes")
        assert len(blob) == total, f"{file} has {len(blob)} bytes, and its header says totalsize {total}"
        nodes = nodes_of(blob)
        told = {path: properties for path, properties in nodes.items() if path.count("/") > 1}
        wanted = {}
        for kernel in kernels:
            wanted[f"/instances/{kernel.name}"] = {"id": kernel.id.to_bytes(4, "big")}
            wanted[f"/instances/{kernel.name}/resources"] = {
                "cpus": b"".join(cpu.to_bytes(4, "big") for cpu in kernel.cpus),
                "memory-bytes": kernel.memory.to_bytes(8, "big"),
            }
        assert told == wanted, file


@claim(
    "who polls an instance's status sleeps until it changes, and is woken by every change",
    source="kernels/reference/README.md: status can be polled",
)
def test_polled(lab: Lab, mk: Interface, seen: Seen) -> None:
    payload = grant_payload(lab, lab.topology.spawned[0])
    id, name = payload.instance.id, payload.instance.name
    holder = Holder(lab.host, "/run/poller")
    file = holder.call(f"open s:{MOUNT}/instances/{name}/status 0").require().result
    polled = file.to_bytes(4, "little") + POLLPRI.to_bytes(4, "little")
    steps: list[tuple[str, Callable[[], object], str]] = [
        ("load", payload.load, "loaded"),
        ("unload", lambda: mk.unload(id).require(), "ready"),
        ("load", payload.load, "loaded"),
        ("start", payload.start, "active"),
        ("halt", lambda: mk.halt(id).require(), "ready"),
        ("load", payload.load, "loaded"),
        ("start", payload.start, "active"),
        ("crash", lambda: payload.last_command("crash"), "failed"),
        ("unload", lambda: mk.unload(id).require(), "ready"),
    ]
    for number, (what, change, state) in enumerate(steps, 1):
        before = holder.call(f"pread {file} out:64 64 0").require().out
        answer = f"/run/polled{number}"
        # It is there once the pipe was read to its end, so that nobody reads the next call's answer.
        read = f"cat {answer} 2>/dev/null || true"
        limit = WAKE_LIMIT * lab.host.factor
        lab.host.run(
            f"(echo '{SYS_POLL} io:{polled.hex()} 1 {limit * 1000:.0f}' >/run/poller/in;"
            f" cat /run/poller/out >{answer}.new; mv {answer}.new {answer}) >/dev/null 2>&1 &"
        )
        time.sleep(0.1)
        early = lab.host.run(read)
        assert not early, f"poll returned before {what}, after {before!r} was read: {early}"
        began = time.monotonic()
        change()
        while not (told := lab.host.run(read)) and time.monotonic() < began + 2 * limit:
            time.sleep(0.02)
        result, events = (
            told.split()[0],
            int.from_bytes(bytes.fromhex(told.partition("out=")[2])[6:8], "little"),
        )
        now = mk.state(name)
        seen(f"{what}: woken, {now}")
        assert (result, events) == ("1", POLLPRI | POLLERR), (
            f"{what} made it {now}, and poll(2) on status returned {result} with events {events:#x}"
            + ("" if result != "0" else f": nobody was notified within {limit:.0f} s")
        )
        assert now == state
