# SPDX-License-Identifier: MIT
"""The reference series in ``kernels/reference/``: v2's interface with flag bits of its own."""

from __future__ import annotations

from harness.multikernel.dialect import (
    REBOOT_CMD_START,
    Dialect,
    console_arguments,
    grant_by_device_tree,
    load_by_file,
    pool_arguments,
    start_by_id,
)
from harness.multikernel.interface import Numbers

NUMBERS = Numbers(load_flag=0x100, id_shift=16, start=REBOOT_CMD_START, halt=0x4D4B4C48, force=0x4D4B4C46)


REFERENCE = Dialect(
    name="reference",
    kimage="/proc/kimage",
    # Both are off by default. A kernel that has neither hands the words to its first program.
    host_arguments=lambda topology: (*pool_arguments(topology), "kho=on", "liveupdate=on"),
    spawned_arguments=lambda topology, spawned: console_arguments(topology, spawned.name),
    grant=grant_by_device_tree,
    load=load_by_file(NUMBERS),
    start=start_by_id,
    to_spawned=lambda instance: instance.id,
    to_host=0,
    takeover=("mk_takeover",),
    numbers=NUMBERS,
)
