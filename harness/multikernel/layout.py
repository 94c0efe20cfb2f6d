# SPDX-License-Identifier: MIT
"""Who claims what of a machine's memory, by the host's /proc/iomem, the grants, the pool's argument.

Claims only: whether they are kept is for harness.oracle to find out.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable

from harness.model import FixedArea, Layout, Owner, Region, merged, without
from harness.multikernel.instance import Instance
from harness.multikernel.kernel import Resource

HOST = "host"
FIRST_MIB = FixedArea(Region(0, 1 << 20), "x86 maps it in every kernel: firmware's data, start-up code")
AREAS = {
    "mk-shared": "the rings that messages go through",
    "Multikernel Shared Memory": "the slots that messages go through",
}
"""What the series call such memory in /proc/iomem. Source: kernels/reference/README.md, RFC v1 3/7."""
ROSTER = "mk-roster"
"""Memory of the pool that is the host's: who runs, for its successor. Source: kernels/reference/README.md."""
_INSTANCE = re.compile(r"mk-instance-\d+-(.+)-region-\d+")


def claimed_layout(
    ram: Iterable[Region],
    pool: Region | None,
    iomem: Iterable[Resource],
    granted: Iterable[Instance],
) -> Layout:
    """Return the claims on a machine's ``ram``: a pool is for instances, all else the host's.

    ``granted`` are the instances that the harness had made; those that /proc/iomem lists beside them
    were made by a test, and nobody knows their CPUs.
    """
    memory: dict[str, list[Region]] = defaultdict(list)
    apic_ids: dict[str, frozenset[int]] = {}
    fixed = [FIRST_MIB]
    for instance in granted:
        memory[instance.name].append(instance.ram)
        apic_ids[instance.name] = apic_ids.get(instance.name, frozenset()) | frozenset(instance.apic_ids)
        fixed += instance.fixed
    roster = []
    for resource in iomem:
        named = _INSTANCE.fullmatch(resource.name)
        if named:
            memory[named[1]].append(resource.region)
        if resource.name == ROSTER:
            roster.append(resource.region)
        if resource.name in AREAS:
            fixed.append(FixedArea(resource.region, AREAS[resource.name]))
    host = Owner(HOST, merged([*without(ram, [pool] if pool else []), *roster]))
    spawned = (Owner(name, merged(parts), apic_ids.get(name, frozenset())) for name, parts in memory.items())
    return Layout((host, *spawned), tuple(dict.fromkeys(fixed)))
