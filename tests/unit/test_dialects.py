# SPDX-License-Identifier: MIT
"""What dialects are made of: device trees as the kernels' parsers want them, and clear refusals."""

from __future__ import annotations

import struct

import fdt
import pytest

from harness.definition import SpawnedKernel, load_topology
from harness.errors import UsageError
from harness.multikernel.devicetree import baseline_blob, create_blob, instances_blob
from harness.multikernel.dialects import find_dialect

ALPHA = SpawnedKernel("alpha", 1, (2, 3), 0x1_0000_0000)
SMALL = SpawnedKernel("small", 2, (1,), 0x1000_0000)


def u64(blob: bytes, path: str, name: str) -> tuple[int, ...]:
    cells = list(fdt.parse_dtb(blob).get_property(name, path))
    return tuple(high << 32 | low for high, low in zip(cells[::2], cells[1::2], strict=True))


def text(blob: bytes, path: str, name: str) -> str:
    return fdt.parse_dtb(blob).get_property(name, path).value


@pytest.mark.parametrize(
    "blob",
    [instances_blob([SMALL]), baseline_blob([2], 4096, ["a"]), create_blob(ALPHA, [2], [])],
    ids=["instances", "baseline", "create"],
)
def test_a_blob_is_as_long_as_it_says(blob):
    magic, size = struct.unpack(">II", blob[:8])
    assert (magic, size) == (0xD00DFEED, len(blob))


def test_the_baseline_of_the_tree_asks_for_cpus_by_64_bit_id_and_for_a_size():
    blob = baseline_blob([2, 0x1_0000_0003], 0x1_2000_0000, ["serial8250"])
    assert u64(blob, "/resources", "cpus") == (2, 0x1_0000_0003)
    assert u64(blob, "/resources/memory@0", "size") == (0x1_2000_0000,)
    assert text(blob, "/resources/devices/serial8250", "device-type") == "platform"
    assert text(blob, "/resources/devices/serial8250", "device-name") == "serial8250"
    assert not fdt.parse_dtb(blob).exist_node("/instances"), "the tree refuses a baseline with instances"


def test_an_instance_of_the_tree_is_an_overlay_with_a_target():
    blob = create_blob(ALPHA, [5, 6], ["serial8250"])
    assert text(blob, "/fragment@0", "target-path") == "/instances"
    create = "/fragment@0/__overlay__/instance-create"
    assert text(blob, create, "instance-name") == "alpha"
    assert fdt.parse_dtb(blob).get_property("id", create).value == 1
    assert u64(blob, f"{create}/resources", "cpus") == (5, 6), "they are the machine's ids, not the host's"
    assert u64(blob, f"{create}/resources", "memory-bytes") == (0x1_0000_0000,)
    assert text(blob, f"{create}/resources/devices/serial8250", "device-name") == "serial8250"


def test_a_kernel_without_a_series_says_so_when_it_is_to_start_another():
    dialect, topology = find_dialect("mainline"), load_topology("pair")
    with pytest.raises(UsageError, match="starts no further kernels") as caught:
        dialect.spawned_arguments(topology, topology.spawned[0])
    assert "--kernel reference" in caught.value.advice
    assert "kho=on" in dialect.host_arguments(topology)


def test_the_host_of_the_tree_has_memory_that_the_pool_can_be_taken_from():
    topology = load_topology("pair")
    arguments = find_dialect("tree").host_arguments(topology)
    (size,) = [int(word.removeprefix("movablecore=").removesuffix("M")) << 20 for word in arguments]
    # Wherever memory ends, so much of its end holds the pool from the border of a block on.
    end, block = (topology.memory_mib << 20) - 0x20000, 128 << 20
    assert (end - topology.pool.size) // block * block >= end - size
