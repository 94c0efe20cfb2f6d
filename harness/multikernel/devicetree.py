# SPDX-License-Identifier: MIT
"""Device tree blobs in the formats that multikernel kernels take.

Source of ``instances_blob``: RFC v2, "Documentation/multikernel" and the parser in 04/16; the reference
series takes the same. Source of the others: the tree's Documentation/multikernel/device-tree.rst
and overlays.rst, and what its parsers in baseline.c, overlay.c and dts.c require.
"""

from __future__ import annotations

from collections.abc import Sequence

import fdt

from harness.definition import SpawnedKernel

COMPATIBLE = "multikernel-v1"
OVERLAY_COMPATIBLE = "linux,multikernel-overlay"


def instances_blob(kernels: Sequence[SpawnedKernel]) -> bytes:
    """Return the blob that asks the host kernel for one instance per kernel.

    CPUs are the host's logical numbers; memory is in bytes and must stay below 4 GiB, since v2
    reads ``memory-bytes`` as one 32-bit cell.
    """
    tree = _tree(COMPATIBLE)
    for kernel in kernels:
        path = f"/instances/{kernel.name}"
        tree.set_property("id", kernel.id, path)
        tree.set_property("cpus", list(kernel.cpus), f"{path}/resources")
        tree.set_property("memory-bytes", kernel.memory, f"{path}/resources")
    return bytes(tree.to_dtb())


def baseline_blob(apic_ids: Sequence[int], memory: int, devices: Sequence[str]) -> bytes:
    """Return the blob that asks a host kernel of the tree to set its pool aside.

    ``memory`` is in bytes, a multiple of the page size; ``devices`` are names of platform devices.
    """
    tree = _tree(COMPATIBLE)
    tree.set_property("cpus", _cells(*apic_ids), "/resources")
    tree.set_property("size", _cells(memory), "/resources/memory@0")
    _add_devices(tree, "/resources", devices)
    return bytes(tree.to_dtb())


def create_blob(kernel: SpawnedKernel, apic_ids: Sequence[int], devices: Sequence[str]) -> bytes:
    """Return the overlay that asks a host kernel of the tree for one instance from its pool."""
    tree = _tree(OVERLAY_COMPATIBLE)
    fragment = "/fragment@0"
    tree.set_property("target-path", "/instances", fragment)
    create = f"{fragment}/__overlay__/instance-create"
    tree.set_property("instance-name", kernel.name, create)
    tree.set_property("id", kernel.id, create)
    tree.set_property("cpus", _cells(*apic_ids), f"{create}/resources")
    tree.set_property("memory-bytes", _cells(kernel.memory), f"{create}/resources")
    _add_devices(tree, f"{create}/resources", devices)
    return bytes(tree.to_dtb())


def _tree(compatible: str) -> fdt.FDT:
    tree = fdt.FDT()
    tree.header.version = 17
    tree.header.last_comp_version = 16
    tree.set_property("compatible", compatible)
    return tree


def _add_devices(tree: fdt.FDT, resources: str, devices: Sequence[str]) -> None:
    for name in devices:
        tree.set_property("device-type", "platform", f"{resources}/devices/{name}")
        tree.set_property("device-name", name, f"{resources}/devices/{name}")


def _cells(*values: int) -> list[int]:
    """Split 64-bit numbers into the 32-bit cells of a property."""
    return [cell for value in values for cell in (value >> 32, value & 0xFFFF_FFFF)]
