# SPDX-License-Identifier: MIT
"""Kernel definitions and topologies: TOML in, validated frozen objects out.

A definition says which kernel (base, series, configuration fragments) and how it is driven
(dialect); a topology says which machine it runs on. Both are data only.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Annotated, Literal, TypeVar

import msgspec
from msgspec import Meta

from harness import paths
from harness.errors import UsageError
from harness.model import Region
from harness.tomlfile import Keys, TomlFile

Name = Annotated[str, Meta(pattern=r"^[a-z0-9][a-z0-9_.-]*$")]
Count = Annotated[int, Meta(ge=1, le=4095)]
Address = Annotated[int, Meta(ge=0, lt=1 << 52, multiple_of=4096)]
Size = Annotated[int, Meta(gt=0, lt=1 << 52, multiple_of=4096)]
Word = Annotated[str, Meta(pattern=r"^[^-\s][^\0\n]*$")]
"""What may be handed to another program: it is not empty, and cannot be taken for an option."""

DIALECTS = ("reference", "v1", "v2", "tree", "mainline")
"""The dialects that there are in harness/multikernel, which is above this module."""

ISA_PORTS = (0x3F8, 0x2F8, 0x3E8, 0x2E8)
"""Where a PC has its ISA serial ports 0 to 3."""
PROBED_PORTS = {0, 1}
"""ISA ports that a spawned kernel whose lines are on PCI probes before it is told of them."""


NO_PATH = ("git:", "b4:", "<", "http://", "https://")
"""How a series begins that is no file or folder."""


class AnyBase(
    msgspec.Struct,
    frozen=True,
    forbid_unknown_fields=True,
    kw_only=True,
    repr_omit_defaults=True,
    tag_field="kind",
):
    """What every base can have: what it is too old, or too new, for."""

    without: tuple[Name, ...] = ()
    """Fragments of the definition's ``configs`` that it goes without, and capabilities of these names, which
    are not expected then."""
    skips: Annotated[int, Meta(ge=0)] | None = None
    """The definition's ``skips`` on this base, None: no other."""


class DebianBase(AnyBase, frozen=True, forbid_unknown_fields=True, tag="debian"):
    """Debian's ``linux-source-*`` package from the first of ``suites`` that has it.

    ``package`` may end in ``*``; then the newest version that matches is taken.
    """

    package: str
    suites: Annotated[tuple[str, ...], Meta(min_length=1)]

    def __str__(self) -> str:
        return f"Debian's {self.package} from {' or '.join(self.suites)}"


class PathBase(AnyBase, frozen=True, forbid_unknown_fields=True, tag="path"):
    """A folder that holds Linux source. It is copied, never modified."""

    path: str

    def __str__(self) -> str:
        return f"the folder {self.path}"


class TarballBase(AnyBase, frozen=True, forbid_unknown_fields=True, tag="tarball"):
    """A source tarball, a local path or an https URL, and the SHA-256 that it must have."""

    url: str
    sha256: Annotated[str, Meta(pattern=r"^[0-9a-f]{64}$")]

    def __str__(self) -> str:
        return f"the tarball {self.url}"


class GitBase(AnyBase, frozen=True, forbid_unknown_fields=True, tag="git"):
    """A revision (branch, tag, commit) of a git repository, a local path or a URL.

    Of a local repository the revision is looked up every time; of a URL once, and by ``--refresh``.
    """

    repository: Word
    revision: Word = "HEAD"

    def __str__(self) -> str:
        return f"{self.revision} of {self.repository}"


Base = DebianBase | PathBase | TarballBase | GitBase


class GuestFile(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A file for the guests: a local path, relative to the definition, and its mode."""

    source: Word
    mode: Annotated[int, Meta(ge=0, le=0o7777)] | None = None
    """None: that of the local file."""


class Given(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What only the user has, and where to get it: told when it is not on the command line."""

    series: str = ""
    base: str = ""


class Definition(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One kernel: where its source comes from, what goes on top, how it is driven."""

    summary: str
    dialect: Name
    configs: Annotated[tuple[Name, ...], Meta(min_length=1)]
    topology: Name
    bases: tuple[Base, ...] = ()
    """Empty only where ``given`` says that the user gives the base."""
    given: Given = Given()
    series: str | None = None
    """Folder of patches (with or without a quilt ``series`` file) or mbox, ``git:REPOSITORY:OLDER..NEWER``,
    ``b4:MESSAGE-ID``, or None for an unpatched base.
    A relative path counts from the definition's folder; in a definition that was read it is absolute."""
    fuzz: Annotated[int, Meta(ge=0, le=3)] = 0
    """Lines of context at each end of a hunk that need not match; each hunk must still land in the
    function or structure that its ``@@`` line names."""
    spawned_kernel: Word | None = None
    """Another definition, whose build the host spawns, with the modules that fit it. None: its own."""
    modules: tuple[Name, ...] = ()
    """Guest kernel modules in ``initramfs/modules/`` to build against this kernel."""
    expects: tuple[Name, ...] = ()
    """Capabilities that the kernel must have; one that is missing is a failure."""
    skips: Annotated[int, Meta(ge=0)] | None = None
    """How many claims may be skipped in a run of the suite; more is a failure. None allows any number."""
    ssh: bool = False
    """Whether the host kernel can be reached by SSH: its user space has a server, the machine a network."""
    files: dict[str, str | GuestFile] = {}
    """More files for the guests, ``{"etc/motd": "motd"}``: where in the guest, and where from."""
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

    start: Address
    size: Size

    @property
    def region(self) -> Region:
        """The pool as a region of guest-physical memory."""
        return Region(self.start, self.size)


class SpawnedKernel(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What one spawned kernel is granted: logical CPUs of the host, and memory in bytes."""

    name: Name
    id: Count
    cpus: Annotated[tuple[Count, ...], Meta(min_length=1)]
    memory: Size


class Topology(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The machine: processors, memory, the pool, what is granted to whom, serial lines."""

    summary: str
    vcpus: Count
    memory_mib: Annotated[int, Meta(ge=1, lt=1 << 32)]
    machine: str
    cpu: str
    pool: Pool
    spawned: tuple[SpawnedKernel, ...]
    serial: tuple[SerialLine, ...]
    arguments: tuple[Word, ...] = ()
    """More words for the host kernel's command line, after all others."""
    cores: Count | None = None
    """Cores of a processor socket; 3, for example, gives APIC ids 0, 1, 2, 4, 5, 6. None: one socket."""
    name: str = ""
    """The file's name without ``.toml``; set when it is read."""

    def apic_id(self, vcpu: int) -> int:
        """Return the local APIC id that QEMU gives its vCPU: sockets begin at powers of two."""
        if self.cores is None:
            return vcpu
        socket, core = divmod(vcpu, self.cores)
        return socket << (self.cores - 1).bit_length() | core

    def serial_line(self, line: str) -> SerialLine:
        """Return the serial line called ``line``."""
        return next(serial for serial in self.serial if serial.line == line)


T = TypeVar("T", Definition, Topology)
Refused = Callable[[Keys, str], UsageError]


def load_definition(name: str) -> Definition:
    """Read ``kernels/NAME.toml``, or the file ``name`` when it is a path ending in ``.toml``.

    ``NAME+FRAGMENT`` is the definition with a configuration fragment more; there may be several.
    Raises UsageError when there is none or it is not valid, naming line, key and allowed values.
    """
    plain, *fragments = split_name(name)
    file = _read(plain, paths.KERNELS, "definition")
    found = file.convert(Definition)
    _check_names(found, file)
    _check_fragments(fragments)
    if not found.bases and not found.given.base:
        raise file.refused(("bases",), "no base is named, nor a [given] base that says where to get one")
    folder = file.path.resolve().parent
    series = found.series
    if series is not None and not series.startswith(NO_PATH):
        series = str(folder / Path(series).expanduser())
    spawned = found.spawned_kernel
    if spawned is not None and split_name(spawned)[0].endswith(".toml"):
        spawned = str(folder / Path(spawned).expanduser())
    files = {place: _located(entry, folder) for place, entry in found.files.items()}
    return msgspec.structs.replace(
        found,
        name="+".join([file.path.stem, *fragments]),
        configs=(*found.configs, *fragments),
        series=series,
        spawned_kernel=spawned,
        files=files,
    )


def on_base(definition: Definition, base: Base | None) -> Definition:
    """Return a definition as it is on one of its bases; None is a base that it does not name."""
    if base is None:
        return definition
    return msgspec.structs.replace(
        definition,
        configs=tuple(name for name in definition.configs if name not in base.without),
        expects=tuple(name for name in definition.expects if name not in base.without),
        skips=definition.skips if base.skips is None else base.skips,
    )


def split_name(name: str) -> list[str]:
    """Split ``NAME+FRAGMENT+FRAGMENT``; the name may be a path."""
    parts = re.fullmatch(r"(.*?)((?:\+[\w-]+)*)", name, re.DOTALL)
    assert parts is not None
    return [parts[1], *parts[2].split("+")[1:]]


def _check_fragments(names: Iterable[str]) -> None:
    known = _known(paths.CONFIGS, "*.config")
    for name in names:
        if name not in known:
            raise UsageError(
                f"there is no configuration fragment {name!r}", advice=f"choose from: {', '.join(known)}"
            )


def load_topology(name: str) -> Topology:
    """Read ``kernels/topologies/NAME.toml``, or the file ``name`` when it is a path.

    Raises UsageError when there is none, it is not valid, or it contradicts itself.
    """
    file = _read(name, paths.TOPOLOGIES, "topology")
    topology = msgspec.structs.replace(file.convert(Topology), name=file.path.stem)
    _check(topology, file.refused)
    return topology


def _read(name: str, folder: Path, noun: str) -> TomlFile:
    path = Path(name) if name.endswith(".toml") else folder / f"{name}.toml"
    return TomlFile.read(path, noun, f"choose one of: {', '.join(_known(folder, '*.toml'))}")


def _known(folder: Path, pattern: str) -> list[str]:
    # Known bugs stand beside a definition, in NAME.known.toml.
    names = {path.name.removesuffix(pattern[1:]) for path in folder.glob(pattern)}
    return sorted(name for name in names if not name.endswith(".known"))


def _check_names(definition: Definition, file: TomlFile) -> None:
    """Refuse a definition that names what is not there, or a guest's file that cannot be."""
    configs, modules = _known(paths.CONFIGS, "*.config"), _known(paths.INITRAMFS / "modules", "*")
    named: list[tuple[Keys, str, str, list[str]]] = [
        (("dialect",), "dialect", definition.dialect, list(DIALECTS)),
        (("topology",), "topology", definition.topology, _known(paths.TOPOLOGIES, "*.toml")),
        *(
            (("spawned_kernel",), "definition", name, _known(paths.KERNELS, "*.toml"))
            for name in split_name(definition.spawned_kernel or "")[:1]
            if name and not name.endswith(".toml")
        ),
        *((("configs", at), "fragment", name, configs) for at, name in enumerate(definition.configs)),
        *((("modules", at), "guest module", name, modules) for at, name in enumerate(definition.modules)),
    ]
    for keys, what, name, known in named:
        if name not in known:
            raise file.refused(keys, f"there is no {what} {name!r}", known)
    for at, base in enumerate(definition.bases):
        for index, name in enumerate(base.without):
            if name not in definition.configs:
                keys = ("bases", at, "without", index)
                raise file.refused(keys, f"there is no fragment {name!r} to go without", definition.configs)
    for place in definition.files:
        if not place or any(part in ("", ".", "..") for part in place.split("/")) or "\0" in place:
            raise file.refused(("files", place), "a guest's file has a path without a leading / and ..")


def _located(entry: str | GuestFile, folder: Path) -> GuestFile:
    """Return a guest's file with the absolute path of its source."""
    found = GuestFile(entry) if isinstance(entry, str) else entry
    return msgspec.structs.replace(found, source=str(folder / Path(found.source).expanduser()))


def _check(topology: Topology, refuse: Refused) -> None:
    """Refuse a topology whose parts do not fit together."""
    if topology.cores is not None and topology.vcpus % topology.cores:
        raise refuse(("cores",), f"{topology.vcpus} CPUs do not fill sockets of {topology.cores} cores")
    seen_cpus: set[int] = set()
    for at, kernel in enumerate(topology.spawned):
        for cpu in kernel.cpus:
            if cpu >= topology.vcpus:
                raise refuse(
                    ("spawned", at, "cpus"),
                    f"{kernel.name} is granted CPU {cpu}, the machine has {topology.vcpus}",
                )
            if cpu in seen_cpus:
                raise refuse(("spawned", at, "cpus"), f"CPU {cpu} is granted twice")
            seen_cpus.add(cpu)
    if sum(kernel.memory for kernel in topology.spawned) > topology.pool.size:
        raise refuse(("pool", "size"), "the spawned kernels are granted more memory than the pool has")
    if topology.pool.region.end > topology.memory_mib << 20:
        raise refuse(
            ("pool",), f"the pool {topology.pool.region} lies beyond the {topology.memory_mib} MiB of memory"
        )
    uses: tuple[tuple[str, list[str | int]], ...] = (
        ("serial line", [serial.line for serial in topology.serial]),
        ("serial port", [f"{serial.bus} {serial.port}" for serial in topology.serial]),
        ("spawned kernel's name", [kernel.name for kernel in topology.spawned]),
        ("spawned kernel's id", [kernel.id for kernel in topology.spawned]),
    )
    for what, values in uses:
        twice = {value for value in values if values.count(value) > 1}
        if twice:
            raise refuse((), f"{what} used twice: {', '.join(map(str, sorted(twice)))}")
    needed = {
        f"{kernel}{end}" for kernel in ("host", *(k.name for k in topology.spawned)) for end in ("", ".agent")
    }
    missing = needed - {serial.line for serial in topology.serial}
    if missing:
        raise refuse(("serial",), f"serial lines missing: {', '.join(sorted(missing))}")
    _check_serial(topology, refuse)


def _check_serial(topology: Topology, refuse: Refused) -> None:
    """Refuse serial lines that QEMU cannot make, or that kernels would take from each other."""
    for at, serial in enumerate(topology.serial):
        if serial.bus == "isa" and (serial.port >= len(ISA_PORTS) or serial.irq < 3):
            raise refuse(
                ("serial", at),
                f"serial line {serial.line}: ISA has ports 0 to 3, with an interrupt of 3 to 15",
            )
        if serial.bus == "pci" and (serial.irq or serial.line.removesuffix(".agent") == "host"):
            raise refuse(
                ("serial", at),
                f"serial line {serial.line}: PCI ports are polled, and are for spawned kernels",
            )
        if serial.io:
            raise refuse(
                ("serial", at), f"serial line {serial.line}: io is not to be set, the firmware decides"
            )
    isa = {serial.port for serial in topology.serial if serial.bus == "isa"}
    if len(isa) < len(topology.serial) and isa & PROBED_PORTS:
        raise refuse(
            ("serial",), "beside PCI ports, ISA ports 0 and 1 must be free: spawned kernels probe them"
        )
    for kernel in topology.spawned:
        if len({topology.serial_line(f"{kernel.name}{end}").bus for end in ("", ".agent")}) > 1:
            raise refuse(("serial",), f"{kernel.name} has one serial line on ISA and one on PCI")
