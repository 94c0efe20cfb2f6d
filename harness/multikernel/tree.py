# SPDX-License-Identifier: MIT
"""The multikernel tree since a pool is given by a baseline and overlays name their target.

NOT RUN: no checkout of the tree could be had where this was written (docs/tree.md). Every format
and number comes from reading the tree's documentation and parsers, and says from where.

A spawned kernel of the tree is fenced by its boot tree: no ACPI, no interrupt controller but its
local APIC, and of the platform's devices only those granted.
"""

from __future__ import annotations

from harness.definition import SpawnedKernel, Topology
from harness.errors import HarnessError
from harness.multikernel.devicetree import baseline_blob, create_blob
from harness.multikernel.dialect import (
    LINUX_ELF,
    REBOOT_CMD_START,
    Dialect,
    console_arguments,
    granted_ram,
    load_by_file,
    start_by_id,
    write_blob,
)
from harness.multikernel.instance import Instance
from harness.multikernel.interface import MOUNT, Numbers, mount
from harness.multikernel.kernel import POOL, Kernel, parse_apic_ids

NUMBERS = Numbers(load_flag=0x10, id_shift=5, start=REBOOT_CMD_START, halt=0x4D4B4C48, force=0x4D4B4C46)
"""Source: the tree's include/uapi/linux/kexec.h (as RFC v2) and reboot.h."""

OVERLAYS = f"{MOUNT}/overlays"
DEVICES = ("serial8250",)
"""Platform devices that a spawned kernel is granted: without this one its 8250 driver has no port.
Source: Documentation/multikernel/device-tree.rst."""

MEMORY_BLOCK = 128 << 20
"""Bytes of a block of memory hot-plug on x86 up to 64 GiB; the pool begins at the border of one."""

CPUINFO = "/run/cpuinfo"
"""The host's /proc/cpuinfo from before the pool: CPUs in the pool are not present in the host."""


def _host_arguments(topology: Topology) -> tuple[str, ...]:
    """Make room that the pool can be taken from, at the end of memory.

    The tree looks into the zones Movable and Normal alone, and a machine whose memory lies below 4 GiB
    has neither. Source: kernel/multikernel/contig.c.
    """
    return (f"movablecore={(topology.pool.size + 2 * MEMORY_BLOCK) >> 20}M",)


def _spawned_arguments(topology: Topology, spawned: SpawnedKernel) -> tuple[str, ...]:
    # It has neither 8259 nor IO-APIC, so nothing delivers its ports' interrupts.
    return (*console_arguments(topology, spawned.name), "mkh.irq=0,0")


def _grant(host: Kernel, topology: Topology, spawned: SpawnedKernel) -> Instance:
    mount(host)
    _require_overlays(host)
    if not any(resource.name == POOL for resource in host.iomem()):
        _fill_pool(host, topology)
    apic_ids = parse_apic_ids(host.read(CPUINFO))
    granted = tuple(sorted(apic_ids[cpu] for cpu in spawned.cpus))
    _apply_overlay(host, create_blob(spawned, granted, DEVICES))
    return Instance(spawned, granted, granted_ram(host, spawned))


def _require_overlays(host: Kernel) -> None:
    """Refuse earlier states of the tree, whose overlays name no target."""
    if host.run(f"test -e {OVERLAYS}/new || echo missing"):
        raise HarnessError(
            f"this kernel has no {OVERLAYS}/new: it is not the tree that dialect `tree` drives",
            advice="take a checkout that has kernel/multikernel/manifest.c; for RFC v2 use --kernel rfc-v2",
        )


def _fill_pool(host: Kernel, topology: Topology) -> None:
    """Write the baseline, which is taken once: the CPUs of all spawned kernels, and the pool's size.

    Where the pool lies is the host kernel's choice, so the topology's address of it means nothing here.
    """
    host.run(f"cat /proc/cpuinfo > {CPUINFO}")
    apic_ids = parse_apic_ids(host.read(CPUINFO))
    cpus = sorted(apic_ids[cpu] for spawned in topology.spawned for cpu in spawned.cpus)
    try:
        write_blob(host, baseline_blob(cpus, topology.pool.size, DEVICES), f"{MOUNT}/device_tree")
    except HarnessError as error:
        raise _refused(host, f"the host kernel refused the baseline: {error.what}") from None


def _apply_overlay(host: Kernel, blob: bytes) -> None:
    """Apply an overlay. The write succeeds even where the overlay fails, so its status is asked for."""
    write_blob(host, blob, f"{OVERLAYS}/new")
    newest = host.run(f"ls {OVERLAYS} | grep '^tx_' | sort -t_ -k2n | tail -n1").strip()
    status = host.run(f"cat {OVERLAYS}/{newest}/status").strip() if newest else "no transaction"
    if status != "applied":
        raise _refused(host, f"the host kernel did not apply the overlay: {newest} {status}")


def _refused(host: Kernel, what: str) -> HarnessError:
    said = host.run("dmesg | tail -n 20")
    return HarnessError(what, details=said, advice="the host kernel's last lines above say why")


TREE = Dialect(
    name="tree",
    kimage="/proc/kimage",
    host_arguments=_host_arguments,
    spawned_arguments=_spawned_arguments,
    grant=_grant,
    load=load_by_file(NUMBERS),
    # It takes an ELF vmlinux that has the multikernel note, and no bzImage.
    linux=LINUX_ELF,
    start=start_by_id,
    to_spawned=lambda instance: instance.id,
    to_host=0,
    numbers=NUMBERS,
)
