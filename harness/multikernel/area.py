# SPDX-License-Identifier: MIT
"""The memory that the reference series' messages go through, for tests that spoil it.

Addresses are guest-physical. Source: kernels/reference/0010, struct mk_shared.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from harness.errors import HarnessError
from harness.multikernel.kernel import Kernel

NAME = "mk-shared"
"""What /proc/iomem calls it."""
SLOTS = 16
ROOM = 16
"""Messages in a ring."""
PAGE = 4096
HEAD, TAIL, MESSAGES, MESSAGE = 0, 64, 68, 248
"""Offsets in a ring: messages put in, messages taken out, the messages; and the size of one."""
PEERS, PEER = 16, 16
"""Offset of the table of peers, and the size of an entry: id, state, APIC id, halt."""
MAGIC, VERSION, NR_SLOTS = 0, 8, 12


@dataclass(frozen=True)
class Area:
    """The area at ``start``."""

    start: int

    def ring(self, receiver: int, sender: int) -> int:
        """Return the address of the ring from one slot to another."""
        return self.start + PAGE * (1 + SLOTS * receiver + sender)

    def message(self, receiver: int, sender: int, number: int) -> int:
        """Return the address of the ring's message with a number counted from its very first one."""
        return self.ring(receiver, sender) + MESSAGES + MESSAGE * (number % ROOM)

    def peer(self, slot: int) -> int:
        """Return the address of a slot's entry in the table of peers."""
        return self.start + PEERS + PEER * slot


def area_of(host: Kernel) -> Area:
    """Return where a host's area is. Raises HarnessError when it has none."""
    found = [one.region.start for one in host.iomem() if one.name == NAME]
    if len(found) != 1:
        raise HarnessError(f"/proc/iomem should name one {NAME}, not {len(found)}")
    return Area(found[0])


def message(type: int, length: int, payload: bytes = b"", subtype: int = 0, number: int = 0) -> bytes:
    """Return a message as it stands in a ring; ``length`` is what it says of itself."""
    return struct.pack("<IIII", type, subtype, number, length) + payload
