# SPDX-License-Identifier: MIT
"""RFC v1 of September 2025: kexec_load(2) with an entry stub of our own, start by CPU number.

The series fences nothing: the spawned kernel's memory map and command line are ours to make.
"""

from __future__ import annotations

import shlex

from harness.definition import SpawnedKernel, Topology
from harness.model import FixedArea, Region
from harness.multikernel.dialect import (
    LINUX_ELF,
    LOW,
    REBOOT_CMD_START,
    Dialect,
    Image,
    console_arguments,
    low_window_arguments,
    unfenced_arguments,
)
from harness.multikernel.instance import Instance
from harness.multikernel.kernel import Kernel, parse_apic_ids

SHARED = FixedArea(
    Region(0x3F00_0000, 0x100_0000), "the series' IPI area, RAM to both kernels, used by neither"
)


def _shared_arguments() -> tuple[str, ...]:
    """Name the IPI area, and keep it from being allocated.

    It must be System RAM to both kernels, so no memmap= can reserve it; crashkernel= can.
    """
    size, start = SHARED.region.size, SHARED.region.start
    return (f"crashkernel={size >> 20}M@{start:#x}", f"mk_shared_memory={start:#x}")


def _host_arguments(topology: Topology) -> tuple[str, ...]:
    return (
        f"memmap={topology.pool.size >> 20}M${topology.pool.start:#x}",
        *low_window_arguments(),
        *_shared_arguments(),
    )


def _spawned_arguments(topology: Topology, spawned: SpawnedKernel) -> tuple[str, ...]:
    return (
        *console_arguments(topology, spawned.name),
        *_shared_arguments(),
        *unfenced_arguments(topology, spawned.name),
    )


def _grant(host: Kernel, topology: Topology, spawned: SpawnedKernel) -> Instance:
    apic_ids = parse_apic_ids(host.read("/proc/cpuinfo"))
    for cpu in spawned.cpus:
        host.run(f"echo 0 > /sys/devices/system/cpu/cpu{cpu}/online")
    before = sum(kernel.memory for kernel in topology.spawned[: topology.spawned.index(spawned)])
    ram = Region(topology.pool.start + before, spawned.memory)
    return Instance(spawned, tuple(sorted(apic_ids[cpu] for cpu in spawned.cpus)), ram, (LOW, SHARED))


def _load(host: Kernel, instance: Instance, image: Image, arguments: str) -> None:
    low, shared, ram = LOW.region, SHARED.region, instance.ram
    host.run(
        f"mkctl load-v1 {image.kernel} {image.initrd or '-'} {shlex.quote(arguments)}"
        f" {ram.start:#x} {ram.size:#x}"
        f" --low {low.start:#x}:{low.size:#x} --ram {shared.start:#x}:{shared.size:#x}",
        timeout=30,
    )


def _start(host: Kernel, instance: Instance) -> None:
    host.run(f"mkctl multikernel {REBOOT_CMD_START:#x} {instance.spawned.cpus[0]}")


V1 = Dialect(
    name="v1",
    kimage="/proc/multikernel",
    host_arguments=_host_arguments,
    spawned_arguments=_spawned_arguments,
    grant=_grant,
    load=_load,
    # The entry is of our own making, so it is the kernel as ELF.
    linux=LINUX_ELF,
    start=_start,
    # v1 addresses CPUs by the sender's own numbers. CPU 0 of the spawned kernel is itself; the
    # host's CPUs keep the numbers that they have there.
    to_spawned=lambda instance: instance.spawned.cpus[0],
    to_host=1,
    # Source: RFC v1 5/7, which gives CPUs one number in all kernels, the APIC id.
    host_cpus=lambda host: host.apic_ids(),
    # Source: RFC v1 4/7, MK_MAX_DATA_SIZE.
    longest_message=256,
    memory_argument="mk_shared_memory={}".format,
    start_argument=lambda instance: instance.spawned.cpus[0],
)
