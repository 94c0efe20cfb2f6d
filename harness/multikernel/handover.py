# SPDX-License-Identifier: MIT
"""Kexec Handover and the Live Update Orchestrator of one kernel, as root in it sees and drives them.

Source: Documentation/admin-guide/mm/kho.rst, include/uapi/linux/liveupdate.h and
include/linux/kho/abi/kexec_handover.h of Linux 7.3.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from harness.errors import HarnessError
from harness.model import Region
from harness.multikernel.calls import Holder, Outcome
from harness.multikernel.devicetree import nodes_of
from harness.multikernel.kernel import Kernel
from harness.vm.ram_pages import PAGE, Pages

KHO = "/sys/kernel/debug/kho"
DEVICE = "/dev/liveupdate"
METADATA, LUO = "kexec-metadata", "LUO"
"""Names of blobs that the kernel itself hands over."""

CREATE, RETRIEVE = 0xBA00, 0xBA01
PRESERVE_FD, RETRIEVE_FD, FINISH, GET_NAME = 0xBA40, 0xBA41, 0xBA42, 0xBA43
"""Commands of ioctl(2) on the device, and on a session."""
_NAMED, _FILE, _FINISH = struct.Struct("<Ii64s"), struct.Struct("<IiQ"), struct.Struct("<II")
"""Their arguments: size; a descriptor; the session's name, the file's token."""
LIMIT = 20.0
"""Seconds that a call has which goes over all pages of a file, before scaling by the accelerator."""
ALLOW_SEALING = 2
"""Flag of memfd_create(2)."""
_SHARED_POPULATED = 0x8001
_PRESENT, _FRAME = 1 << 63, (1 << 55) - 1
"""Bits of an entry in /proc/PID/pagemap."""


@dataclass(frozen=True)
class Tree:
    """What is handed over: the physical address of the map of preserved memory, and blobs by name."""

    compatible: str
    memory_map: int
    blobs: Mapping[str, Region]


def parse_tree(blob: bytes) -> Tree:
    """Read KHO's device tree. Raises HarnessError when it holds anything but what the ABI names."""
    nodes = nodes_of(blob)
    compatible, memory_map = _values(nodes.pop("/"), "compatible", "preserved-memory-map")
    blobs = {}
    for path, properties in nodes.items():
        start, size = _values(properties, "preserved-data", "blob-size")
        blobs[path.removeprefix("/")] = Region(_number(start), _number(size))
    return Tree(compatible.rstrip(b"\0").decode("ascii"), _number(memory_map), blobs)


def _values(properties: Mapping[str, bytes], *names: str) -> list[bytes]:
    if sorted(properties) != sorted(names):
        raise HarnessError(f"a node should have {', '.join(names)}, it has {', '.join(properties)}")
    return [properties[name] for name in names]


def _number(value: bytes) -> int:
    """Read a number: in the machine's order, unlike those of other device trees."""
    if len(value) != 8:
        raise HarnessError(f"a number in KHO's device tree has {len(value)} bytes, not 8")
    return int.from_bytes(value, "little")


def scratch(kernel: Kernel) -> list[Region]:
    """Return the scratch areas; an area that the kernel did not need has no size."""
    starts, sizes = (kernel.read(f"{KHO}/out/scratch_{what}").split() for what in ("phys", "len"))
    pairs = [(int(start, 16), int(size, 16)) for start, size in zip(starts, sizes, strict=True)]
    return [Region(start, size) for start, size in pairs if size]


def incoming(kernel: Kernel) -> Tree:
    """Return the tree that a kernel was given. Raises HarnessError when it was given none."""
    return parse_tree(kernel.channel.get(f"{KHO}/in/fdt"))


class LiveUpdate:
    """One process that drives a kernel's Live Update Orchestrator, and keeps its sessions and files.

    Sessions and files are called by names; a file's name is the test's own. Every call returns its outcome.
    """

    def __init__(self, kernel: Kernel) -> None:
        self.kernel = kernel
        self.holder = Holder(kernel)
        self._descriptors: dict[str, int] = {}

    def open(self) -> Outcome:
        """Open the device, for good."""
        return self._keep("device", self.holder.call(f"open s:{DEVICE} 2 0"))

    def create(self, session: str) -> Outcome:
        """Create a session."""
        return self._keep(
            session, self.ioctl("device", CREATE, _NAMED.pack(_NAMED.size, -1, session.encode()))
        )

    def retrieve(self, session: str) -> Outcome:
        """Take over a predecessor's session."""
        return self._keep(
            session, self.ioctl("device", RETRIEVE, _NAMED.pack(_NAMED.size, -1, session.encode()))
        )

    def memfd(self, name: str, size: int = 0) -> Outcome:
        """Make a memfd of ``size`` bytes, all of it a hole."""
        made = self._keep(name, self.holder.call(f"memfd_create s:{name} {ALLOW_SEALING}"))
        if made.ok:
            self.holder.call(f"ftruncate {made.result} {size}").require()
        return made

    def preserve(self, session: str, name: str, token: int) -> Outcome:
        """Have a file handed over in a session."""
        return self.ioctl(session, PRESERVE_FD, _FILE.pack(_FILE.size, self.number(name), token))

    def fetch(self, session: str, token: int, name: str) -> Outcome:
        """Retrieve a file from a session that was retrieved, and call it ``name``."""
        return self._keep(name, self.ioctl(session, RETRIEVE_FD, _FILE.pack(_FILE.size, -1, token)))

    def finish(self, session: str) -> Outcome:
        """Say that all that is wanted was retrieved from a session."""
        return self.ioctl(session, FINISH, _FINISH.pack(_FINISH.size, 0))

    def close(self, name: str) -> Outcome:
        """Close a session, a file or the ``device``."""
        return self.holder.call(f"close {self._descriptors.pop(name)}", limit=LIMIT)

    def ioctl(self, name: str, command: int, argument: bytes) -> Outcome:
        """Make any call of ioctl(2) on what is called ``name``."""
        return self.holder.call(f"ioctl {self.number(name)} {command} io:{argument.hex()}", limit=LIMIT)

    def number(self, name: str) -> int:
        """Return the number of a descriptor in the process; -1 for what is not open."""
        return self._descriptors.get(name, -1)

    def path(self, name: str) -> str:
        """Return where the guest's other processes find an open file."""
        return f"/proc/{self.holder.pid}/fd/{self.number(name)}"

    def fill(self, name: str, size: int, source: str = "/dev/urandom") -> None:
        """Write ``size`` bytes to a file from its beginning on."""
        self.kernel.run(f"head -c {size} {source} 1<>{self.path(name)}", timeout=60)

    def digest(self, name: str) -> str:
        """Return the SHA-256 of a file's content, as this kernel reads it."""
        return self.kernel.run(f"sha256sum <{self.path(name)}", timeout=60).split()[0]

    def pages(self, name: str, size: int) -> Pages:
        """Return the physical pages of the first ``size`` bytes of a memfd, in the file's order.

        Every hole has a page after that.
        """
        number, count = self.number(name), -(-size // PAGE)
        mapped = self.holder.call(f"mmap 0 {size} 1 {_SHARED_POPULATED} {number} 0", limit=LIMIT).require()
        command = f"dd if=/proc/{self.holder.pid}/pagemap bs=8 skip={mapped.result // PAGE} count={count}"
        entries = np.frombuffer(self.kernel.channel.run(command, timeout=60).check().stdout, np.uint64)
        self.holder.call(f"munmap {mapped.result} {size}").require()
        if len(entries) != count or not np.all(entries & np.uint64(_PRESENT)):
            raise HarnessError(f"not all pages of {name} are in the page map: {entries[:8]}")
        return (entries & np.uint64(_FRAME)).astype(np.int64)

    def _keep(self, name: str, outcome: Outcome) -> Outcome:
        """Remember the descriptor that a call gave, by its result or in its argument's second word."""
        if outcome.ok:
            told = int.from_bytes(outcome.out[4:8], "little") if outcome.out else outcome.result
            self._descriptors[name] = told
        return outcome


def opened(kernel: Kernel) -> LiveUpdate:
    """Return the Live Update Orchestrator of a kernel, its device open. Raises HarnessError."""
    found = LiveUpdate(kernel)
    found.open().require()
    return found
