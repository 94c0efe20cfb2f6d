# SPDX-License-Identifier: MIT
"""Device tree blobs in the formats that multikernel kernels take.

Source of ``instances_blob``: RFC v2, "Documentation/multikernel" and the parser in 04/16; the reference
series takes the same. Source of the others: the tree's Documentation/multikernel/device-tree.rst
and overlays.rst, and what its parsers in baseline.c, overlay.c and dts.c require.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence

import fdt

from harness.definition import SpawnedKernel
from harness.errors import HarnessError

COMPATIBLE = "multikernel-v1"
OVERLAY_COMPATIBLE = "linux,multikernel-overlay"
_MAGIC, _VERSION = 0xD00DFEED, 17
_BEGIN, _END, _PROPERTY, _NOP, _DONE = 1, 2, 3, 4, 9
"""Words of the structure block. Source: Devicetree Specification 0.4, chapter 5."""


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


def nodes_of(blob: bytes) -> dict[str, dict[str, bytes]]:
    """Return the properties of every node, by path (the root's is "/"), with their very bytes.

    The library guesses what a value is and keeps the guess, which spoils raw numbers that look like
    text. Raises HarnessError when the blob is not whole or not well-formed; what is behind it is ignored.
    """
    try:
        header = struct.unpack_from(">10I", blob)
        if header[0] != _MAGIC or header[5] != _VERSION:
            raise ValueError(f"this is none of version {_VERSION}: {blob[:24].hex()}")
        total, structure, strings, reserved, sizes = *header[1:5], header[8:10]
        if total > len(blob):
            raise ValueError(f"it says that it has {total} bytes, and there are {len(blob)}")
        if not 40 <= reserved <= structure <= structure + sizes[1] <= strings <= strings + sizes[0] <= total:
            raise ValueError(f"its parts overlap or lie outside: {header}")
        return _walk(blob[structure : structure + sizes[1]], blob[strings : strings + sizes[0]])
    except (struct.error, ValueError, UnicodeDecodeError) as error:
        raise HarnessError(f"the device tree is not well-formed: {error}") from None


def _walk(structure: bytes, strings: bytes) -> dict[str, dict[str, bytes]]:
    nodes: dict[str, dict[str, bytes]] = {}
    path: list[str] = []
    at, tag = 0, _NOP
    while tag != _DONE:
        (tag,) = struct.unpack_from(">I", structure, at)
        at += 4
        if tag == _BEGIN and (path or not nodes):
            end = structure.index(b"\0", at)
            path.append(structure[at:end].decode("ascii"))
            if (name := "/".join(path) or "/") in nodes:
                raise ValueError(f"the node {name} is there twice")
            nodes[name] = {}
            at = (end + 4) & ~3
        elif tag == _PROPERTY and path:
            size, place = struct.unpack_from(">2I", structure, at)
            key = strings[place : strings.index(b"\0", place)].decode("ascii")
            value = structure[at + 8 : at + 8 + size]
            if len(value) < size or key in nodes["/".join(path) or "/"]:
                raise ValueError(f"the property {key} is cut off, or there twice")
            nodes["/".join(path) or "/"][key] = value
            at = (at + 8 + size + 3) & ~3
        elif tag == _END and path:
            path.pop()
        elif tag not in {_NOP, _DONE} or (tag == _DONE and (path or not nodes or at != len(structure))):
            raise ValueError(f"the word {tag:#x} stands where it may not")
    return nodes
