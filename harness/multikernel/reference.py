# SPDX-License-Identifier: MIT
"""The reference series in ``kernels/reference/``: v2's interface with flag bits of its own."""

from __future__ import annotations

from harness.definition import SpawnedKernel, Topology
from harness.errors import HarnessError
from harness.multikernel.devicetree import instances_blob
from harness.multikernel.dialect import Dialect, console_arguments, start_by_id
from harness.multikernel.instance import Instance
from harness.multikernel.kernel import Kernel, parse_apic_ids

MOUNT = "/sys/fs/multikernel"
KEXEC_FILE_MULTIKERNEL = 0x100
KEXEC_FILE_MK_ID_SHIFT = 16


def _host_arguments(topology: Topology) -> tuple[str, ...]:
    return (f"mkkernel_pool={topology.pool.size >> 10}K@{topology.pool.start:#x}",)


def _grant(host: Kernel, topology: Topology, spawned: SpawnedKernel) -> Instance:
    """Write the device tree in one write(2); the host kernel takes the CPUs offline by itself."""
    apic_ids = parse_apic_ids(host.read("/proc/cpuinfo"))
    host.run(f"mountpoint -q {MOUNT} || mount -t multikernel none {MOUNT}")
    blob = f"/run/{spawned.name}.dtb"
    host.channel.put(blob, instances_blob([spawned]))
    host.run(f"mkctl write-once {blob} {MOUNT}/device_tree")
    resource = f"mk-instance-{spawned.id}-{spawned.name}-region-0"
    regions = [r.region for r in host.iomem() if r.name == resource]
    if len(regions) != 1:
        raise HarnessError(f"/proc/iomem of the host should list one {resource!r}, it lists {len(regions)}")
    return Instance(spawned, tuple(sorted(apic_ids[cpu] for cpu in spawned.cpus)), regions[0])


def _load(host: Kernel, instance: Instance, arguments: str) -> None:
    flags = KEXEC_FILE_MULTIKERNEL | instance.id << KEXEC_FILE_MK_ID_SHIFT
    host.run(f"mkctl load-file /boot/bzImage /boot/initrd '{arguments}' {flags:#x}", timeout=30)


REFERENCE = Dialect(
    name="reference",
    kimage="/proc/kimage",
    host_arguments=_host_arguments,
    spawned_arguments=lambda topology, spawned: console_arguments(topology, spawned.name),
    grant=_grant,
    load=_load,
    start=start_by_id,
    to_spawned=lambda instance: instance.id,
    to_host=0,
)
