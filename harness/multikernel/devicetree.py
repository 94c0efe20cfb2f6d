# SPDX-License-Identifier: MIT
"""Device tree blobs in the format that multikernel kernels take: `compatible = "multikernel-v1"`.

Source: RFC v2, "Documentation/multikernel" and the parser in 04/16; the reference series takes the same.
"""

from __future__ import annotations

from collections.abc import Sequence

import fdt

from harness.definition import SpawnedKernel

COMPATIBLE = "multikernel-v1"


def instances_blob(kernels: Sequence[SpawnedKernel]) -> bytes:
    """Return the blob that asks the host kernel for one instance per kernel.

    CPUs are the host's logical numbers; memory is in bytes and must stay below 4 GiB, since v2
    reads ``memory-bytes`` as one 32-bit cell.
    """
    tree = fdt.FDT()
    tree.header.version = 17
    tree.header.last_comp_version = 16
    tree.set_property("compatible", COMPATIBLE)
    for kernel in kernels:
        path = f"/instances/{kernel.name}"
        tree.set_property("id", kernel.id, path)
        tree.set_property("cpus", list(kernel.cpus), f"{path}/resources")
        tree.set_property("memory-bytes", kernel.memory, f"{path}/resources")
    return bytes(tree.to_dtb())
