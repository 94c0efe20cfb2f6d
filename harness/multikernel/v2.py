# SPDX-License-Identifier: MIT
"""RFC v2 of October 2025: a pool, instances from a device tree, kexec_file_load(2) and start by id.

The spawned kernel is handed the host's memory map, so its command line has to fence it.
"""

from __future__ import annotations

from dataclasses import replace

from harness.definition import SpawnedKernel, Topology
from harness.multikernel.dialect import (
    LOW,
    REBOOT_CMD_START,
    Dialect,
    console_arguments,
    grant_by_device_tree,
    load_by_file,
    low_window_arguments,
    pool_arguments,
    start_by_id,
    unfenced_arguments,
)
from harness.multikernel.instance import Instance
from harness.multikernel.interface import Numbers
from harness.multikernel.kernel import Kernel

NUMBERS = Numbers(load_flag=0x10, id_shift=5, start=REBOOT_CMD_START, loaded="loading")
"""Source: RFC v2 15/16, include/uapi/linux/kexec.h; 08/16 and 10/16, which go from loading to active."""


def _spawned_arguments(topology: Topology, spawned: SpawnedKernel) -> tuple[str, ...]:
    """Fence the spawned kernel in. Instances take their memory from the pool in their order."""
    before = sum(kernel.memory for kernel in topology.spawned[: topology.spawned.index(spawned)])
    low = LOW.region
    return (
        *console_arguments(topology, spawned.name),
        "memmap=exactmap",
        f"memmap={low.size >> 10}K@{low.start:#x}",
        f"memmap={spawned.memory >> 10}K@{topology.pool.start + before:#x}",
        *unfenced_arguments(topology, spawned.name),
    )


def _grant(host: Kernel, topology: Topology, spawned: SpawnedKernel) -> Instance:
    return replace(grant_by_device_tree(host, topology, spawned), fixed=(LOW,))


V2 = Dialect(
    name="v2",
    kimage="/proc/kimage",
    host_arguments=lambda topology: (*pool_arguments(topology), *low_window_arguments()),
    spawned_arguments=_spawned_arguments,
    grant=_grant,
    load=load_by_file(NUMBERS),
    start=start_by_id,
    to_spawned=lambda instance: instance.id,
    to_host=0,
    numbers=NUMBERS,
)
