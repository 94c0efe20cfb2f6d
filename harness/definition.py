# SPDX-License-Identifier: MIT
"""Kernel definitions and topologies: TOML in, validated frozen objects out.

A definition says which kernel (base, series, configuration fragments) and how it is driven
(dialect); a topology says which machine it runs on. Both are data only.
"""

from __future__ import annotations

import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Literal, TypeVar

import msgspec
from msgspec import Meta

from harness import paths
from harness.errors import UsageError
from harness.model import Region

Name = Annotated[str, Meta(pattern=r"^[a-z0-9][a-z0-9_.-]*$")]
Count = Annotated[int, Meta(ge=1)]

ISA_PORTS = (0x3F8, 0x2F8, 0x3E8, 0x2E8)
"""Where a PC has its ISA serial ports 0 to 3."""
PROBED_PORTS = {0, 1}
"""ISA ports that a spawned kernel whose lines are on PCI probes before it is told of them."""


class DebianBase(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="debian", tag_field="kind"):
    """Debian's ``linux-source-*`` package from the first of ``suites`` that has it.

    ``package`` may end in ``*``; then the newest version that matches is taken.
    """

    package: str
    suites: Annotated[tuple[str, ...], Meta(min_length=1)]

    def __str__(self) -> str:
        return f"Debian's {self.package} from {' or '.join(self.suites)}"


class PathBase(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="path", tag_field="kind"):
    """A folder that holds Linux source. It is copied, never modified."""

    path: str

    def __str__(self) -> str:
        return f"the folder {self.path}"


class TarballBase(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="tarball", tag_field="kind"):
    """A source tarball, a local path or an https URL, and the SHA-256 that it must have."""

    url: str
    sha256: Annotated[str, Meta(pattern=r"^[0-9a-f]{64}$")]

    def __str__(self) -> str:
        return f"the tarball {self.url}"


Base = DebianBase | PathBase | TarballBase


class Definition(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One kernel: where its source comes from, what goes on top, how it is driven."""

    summary: str
    dialect: Name
    bases: Annotated[tuple[Base, ...], Meta(min_length=1)]
    configs: Annotated[tuple[Name, ...], Meta(min_length=1)]
    topology: Name
    series: str | None = None
    """Folder of patches (with or without a quilt ``series`` file), or None for an unpatched base.
    A relative path counts from ``kernels/``."""
    modules: tuple[Name, ...] = ()
    """Guest kernel modules in ``initramfs/modules/`` to build against this kernel."""
    expects: tuple[Name, ...] = ()
    """Capabilities that the kernel must have; one that is missing is a failure."""
    ssh: bool = False
    """Whether the host kernel can be reached by SSH: its user space has a server, the machine a network."""
    name: str = ""
    """The file's name without ``.toml``; set when it is read."""


class SerialLine(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One serial port, and its use: what QEMU puts there, and which guest may touch it.

    ``line`` is what the harness calls it: a kernel's name for its console, ``NAME.agent`` for
    the line on which that kernel's agent takes commands. On ISA ``port`` is 0-3, the ttyS number in
    the guest, and has an interrupt. On PCI it is any number; such a port is polled, and ``io``, where
    its registers are, is known once the firmware of a running machine has put it there.
    """

    line: Annotated[str, Meta(pattern=r"^[a-z0-9-]+(\.agent)?$")]
    port: Annotated[int, Meta(ge=0, le=19)]
    irq: Annotated[int, Meta(ge=0, le=15)] = 0
    bus: Literal["isa", "pci"] = "isa"
    io: Annotated[int, Meta(ge=0, le=0xFFF8)] = 0

    @property
    def address(self) -> int:
        """The first of its I/O ports; 0 for a PCI port that was not located."""
        return ISA_PORTS[self.port] if self.bus == "isa" else self.io


class Pool(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The memory that the host kernel sets aside for spawned kernels, in bytes."""

    start: Annotated[int, Meta(ge=0, multiple_of=4096)]
    size: Annotated[int, Meta(gt=0, multiple_of=4096)]

    @property
    def region(self) -> Region:
        """The pool as a region of guest-physical memory."""
        return Region(self.start, self.size)


class SpawnedKernel(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What one spawned kernel is granted: logical CPUs of the host, and memory in bytes."""

    name: Name
    id: Count
    cpus: Annotated[tuple[Count, ...], Meta(min_length=1)]
    memory: Annotated[int, Meta(gt=0, multiple_of=4096)]


class Topology(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The machine: processors, memory, the pool, what is granted to whom, serial lines."""

    summary: str
    vcpus: Count
    memory_mib: Count
    machine: str
    cpu: str
    pool: Pool
    spawned: tuple[SpawnedKernel, ...]
    serial: tuple[SerialLine, ...]
    name: str = ""
    """The file's name without ``.toml``; set when it is read."""

    def serial_line(self, line: str) -> SerialLine:
        """Return the serial line called ``line``."""
        return next(serial for serial in self.serial if serial.line == line)


T = TypeVar("T", Definition, Topology)


def load_definition(name: str) -> Definition:
    """Read ``kernels/NAME.toml``, or the file ``name`` when it is a path ending in ``.toml``.

    Raises UsageError when there is none or it is not valid.
    """
    return _load(name, paths.KERNELS, Definition)


def load_topology(name: str) -> Topology:
    """Read ``kernels/topologies/NAME.toml``, or the file ``name`` when it is a path.

    Raises UsageError when there is none, it is not valid, or it contradicts itself.
    """
    topology = _load(name, paths.TOPOLOGIES, Topology)
    _check(topology)
    return topology


def _load(name: str, folder: Path, kind: type[T]) -> T:
    path = Path(name) if name.endswith(".toml") else folder / f"{name}.toml"
    noun = kind.__name__.lower()
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        known = ", ".join(sorted(p.stem for p in folder.glob("*.toml")))
        raise UsageError(
            f"cannot read the {noun} {path}: {error}", advice=f"choose one of: {known}"
        ) from None
    try:
        found = msgspec.convert(tomllib.loads(text), kind)
    except (tomllib.TOMLDecodeError, msgspec.ValidationError) as error:
        raise UsageError(
            f"{path} is not a valid {noun}: {error}",
            advice=f"compare it with {folder.relative_to(paths.CHECKOUT)}/ and correct it",
        ) from None
    return msgspec.structs.replace(found, name=path.stem)


def _check(topology: Topology) -> None:
    """Refuse a topology whose parts do not fit together."""

    def refuse(why: str) -> UsageError:
        return UsageError(f"topology {topology.name}: {why}", advice="correct the topology file")

    seen_cpus: set[int] = set()
    for kernel in topology.spawned:
        for cpu in kernel.cpus:
            if cpu >= topology.vcpus:
                raise refuse(f"{kernel.name} is granted CPU {cpu}, the machine has {topology.vcpus}")
            if cpu in seen_cpus:
                raise refuse(f"CPU {cpu} is granted twice")
            seen_cpus.add(cpu)
    if sum(kernel.memory for kernel in topology.spawned) > topology.pool.size:
        raise refuse("the spawned kernels are granted more memory than the pool has")
    if topology.pool.region.end > topology.memory_mib << 20:
        raise refuse(f"the pool {topology.pool.region} lies beyond the {topology.memory_mib} MiB of memory")
    uses: tuple[tuple[str, list[str | int]], ...] = (
        ("serial line", [serial.line for serial in topology.serial]),
        ("serial port", [f"{serial.bus} {serial.port}" for serial in topology.serial]),
        ("spawned kernel's name", [kernel.name for kernel in topology.spawned]),
        ("spawned kernel's id", [kernel.id for kernel in topology.spawned]),
    )
    for what, values in uses:
        twice = {value for value in values if values.count(value) > 1}
        if twice:
            raise refuse(f"{what} used twice: {', '.join(map(str, sorted(twice)))}")
    needed = {
        f"{kernel}{end}" for kernel in ("host", *(k.name for k in topology.spawned)) for end in ("", ".agent")
    }
    missing = needed - {serial.line for serial in topology.serial}
    if missing:
        raise refuse(f"serial lines missing: {', '.join(sorted(missing))}")
    _check_serial(topology, refuse)


def _check_serial(topology: Topology, refuse: Callable[[str], UsageError]) -> None:
    """Refuse serial lines that QEMU cannot make, or that kernels would take from each other."""
    for serial in topology.serial:
        if serial.bus == "isa" and (serial.port >= len(ISA_PORTS) or serial.irq < 3):
            raise refuse(f"serial line {serial.line}: ISA has ports 0 to 3, with an interrupt of 3 to 15")
        if serial.bus == "pci" and (serial.irq or serial.line.removesuffix(".agent") == "host"):
            raise refuse(f"serial line {serial.line}: PCI ports are polled, and are for spawned kernels")
        if serial.io:
            raise refuse(f"serial line {serial.line}: io is not to be set, the firmware decides")
    isa = {serial.port for serial in topology.serial if serial.bus == "isa"}
    if len(isa) < len(topology.serial) and isa & PROBED_PORTS:
        raise refuse("beside PCI ports, ISA ports 0 and 1 must be free: spawned kernels probe them")
    for kernel in topology.spawned:
        if len({topology.serial_line(f"{kernel.name}{end}").bus for end in ("", ".agent")}) > 1:
            raise refuse(f"{kernel.name} has one serial line on ISA and one on PCI")
