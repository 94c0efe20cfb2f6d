# SPDX-License-Identifier: MIT
"""What a spawned kernel is handed: shown with the payload, which says what it got."""

from __future__ import annotations

import secrets

import fdt
import pytest

from harness.errors import HarnessError
from harness.lab import Lab, Pair
from harness.model import merged, without
from harness.multikernel.interface import MOUNT, Interface, mount
from harness.multikernel.payload import SETUP_MULTIKERNEL, Payload, grant_payload, spawn_payload
from harness.oracle.processors import processors
from harness.plugin import Seen, claim
from harness.vm.ram import ram_of

pytestmark = pytest.mark.needs("spawn")

TREE = "RFC v2 16/16: a spawned kernel restores its instance from the device tree that is handed over"
CMDLINE_SIZE, ELFCOREHDR = 2047, 30
"""What the payload's header allows, and what the loader keeps of it for an argument of its own."""


@claim(
    "the memory map that a spawned kernel is handed has the granted memory as RAM and nothing else",
    source="RFC v2 0/16: each instance has its own memory",
)
def test_memory_map_is_the_grant(payload: Payload, seen: Seen) -> None:
    fixed = [area.region for area in payload.instance.fixed]
    seen(f"RAM: {', '.join(map(str, payload.boot.ram))}")
    assert without(payload.boot.ram, fixed) == merged([payload.instance.ram]), (
        f"granted was {payload.instance.ram}, the map says {payload.boot.e820}"
    )


@claim(
    "all that a spawned kernel is handed lies in its own memory: image, boot parameters, initrd, setup_data",
    source="RFC v2 5/16: the kernel's segments are placed in the instance's memory",
)
def test_handed_over_inside(lab: Lab, seen: Seen) -> None:
    content = secrets.token_bytes(10_001)
    lab.host.channel.put("/run/initrd", content)
    payload = spawn_payload(lab, lab.topology.spawned[0], initrd="/run/initrd")
    boot, ram = payload.boot, payload.instance.ram
    assert boot.initrd is not None, "no initrd is named in its boot parameters"
    places = {"image": boot.image.start, "boot_params": boot.address, "initrd": boot.initrd.start}
    places |= {f"setup_data {type:#x}": address for address, type in boot.setup_data}
    seen(", ".join(f"{name} at {address:#x}" for name, address in places.items()))
    outside = {name for name, address in places.items() if not ram.start <= address < ram.end}
    assert not outside, f"outside the granted {ram}: {outside}"
    assert boot.initrd.size == len(content)
    assert ram_of(lab.machine).read(boot.initrd.start, boot.initrd.size) == content, "the initrd is another"


@claim(
    "the command line arrives as it was loaded", source="RFC v2 0/16: kexec_file_load() with a command line"
)
def test_command_line(payload: Payload, seen: Seen) -> None:
    seen(payload.boot.arguments)
    assert payload.boot.arguments == payload.arguments


def longest(payload: Payload) -> str:
    """Return what, behind the arguments for its console, makes the longest command line."""
    if payload.dialect.numbers is None:
        pytest.skip("without kexec_file_load() the boot parameters are the loader's own")
    return "x" * (CMDLINE_SIZE - ELFCOREHDR - len(f"{payload.arguments} \0"))


@claim(
    "a command line of the greatest length arrives", source="Documentation/arch/x86/boot.rst: cmdline_size"
)
def test_longest_command_line(lab: Lab, seen: Seen) -> None:
    payload = grant_payload(lab, lab.topology.spawned[0])
    payload.load(longest(payload))
    boot = payload.start()
    seen(f"{len(boot.arguments)} characters")
    assert boot.arguments == f"{payload.arguments} {longest(payload)}"


@claim(
    "a command line that is a byte too long is refused, and a shorter one loads after that",
    source="Documentation/arch/x86/boot.rst: cmdline_size",
)
def test_command_line_too_long(lab: Lab, seen: Seen) -> None:
    payload = grant_payload(lab, lab.topology.spawned[0])
    with pytest.raises(HarnessError, match="ended with status 1") as refused:
        payload.load(longest(payload) + "x")
    seen(f"{CMDLINE_SIZE - ELFCOREHDR} characters refused")
    assert "Invalid argument" in str(refused.value)
    payload.load()
    payload.start()


@claim(
    "a spawned kernel starts on the first granted CPU, and no other runs it (seen from outside)",
    source="RFC v2 0/16: each instance has its own CPUs",
)
def test_starts_on_the_granted_cpu(payload: Payload, lab: Lab, seen: Seen) -> None:
    ram = payload.instance.ram
    inside = tuple(p.index for p in processors(lab.machine) if ram.start <= p.cr3 < ram.end)
    seen(f"it says APIC id {payload.boot.apic_id}; page tables in its memory: vCPUs {inside}")
    assert payload.boot.apic_id == payload.instance.apic_ids[0]
    assert inside == payload.instance.apic_ids[:1]


@claim(
    "a spawned kernel is told its id, CPUs and memory as they were granted, and of no firmware",
    source="kernels/reference/README.md: it has exactly its region as System RAM, no ACPI",
)
def test_told_what_was_granted(payload: Payload, seen: Seen) -> None:
    boot, instance = payload.boot, payload.instance
    if not boot.told:
        pytest.skip("this series tells a spawned kernel nothing of its instance")
    assert [type for _, type in boot.setup_data].count(SETUP_MULTIKERNEL) == 1
    seen(f"instance {boot.told['id']}, APIC ids {boot.granted}, rsdp {boot.rsdp:#x}")
    assert boot.told["id"] == instance.id
    assert boot.granted == instance.apic_ids
    assert (boot.told["start"], boot.told["size"]) == (instance.ram.start, instance.ram.size)
    assert boot.rsdp == 0, "it is told where the host's ACPI tables are"


@claim(
    "the device tree of the instance reaches the spawned kernel, as its host has it, to the byte", source=TREE
)
@pytest.mark.needs("own-tree")
def test_tree_inside(pair: Pair, live: Interface, seen: Seen) -> None:
    mount(pair.spawned)
    own = pair.spawned.channel.get(f"{MOUNT}/device_tree")
    record = pair.host.channel.get(f"{MOUNT}/instances/{pair.instance.name}/device_tree")
    node = fdt.parse_dtb(own).get_node(f"/instances/{pair.instance.name}")
    told = {name: list(node.get_subnode("resources").get_property(name)) for name in ("cpus", "memory-bytes")}
    seen(f"{len(own)} bytes: {told}")
    assert own == record
    assert told["cpus"] == list(pair.instance.spawned.cpus)
    assert int.from_bytes(b"".join(cell.to_bytes(4, "big") for cell in told["memory-bytes"])) == (
        pair.instance.ram.size
    )
