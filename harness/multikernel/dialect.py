# SPDX-License-Identifier: MIT
"""How one generation of the multikernel patches is driven: a composition of plain functions.

A dialect holds no state and starts no process; every function drives the host kernel through its
agent. A new generation is a new module that composes one ``Dialect``, mostly out of what is here.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable
from dataclasses import dataclass

from harness.definition import SerialLine, SpawnedKernel, Topology
from harness.errors import HarnessError
from harness.model import FixedArea, Region
from harness.multikernel.devicetree import instances_blob
from harness.multikernel.instance import Instance
from harness.multikernel.interface import MAGIC1, MAGIC2, MOUNT, Numbers, mount
from harness.multikernel.kernel import Kernel, parse_apic_ids
from harness.vm.tsc import tsc_arguments

LOW = FixedArea(Region(0x30000, 0x50000), "below 1 MiB, where v1 and v2 allocate their start trampoline")

REBOOT_CMD_START = 0x4D4B4C49
"""reboot(2) command that starts a loaded kernel. Source: LINUX_REBOOT_CMD_MULTIKERNEL in all posts."""


@dataclass(frozen=True)
class Image:
    """What can be loaded: files of the host's. ``initrd`` is None where there is none."""

    kernel: str
    initrd: str | None = None


LINUX = Image("/boot/bzImage", "/boot/initrd")
"""The kernel under test with its user space."""
LINUX_ELF = Image("/boot/vmlinux", LINUX.initrd)
"""The same, for loaders that take no bzImage."""


@dataclass(frozen=True)
class Dialect:
    """One generation of the interface.

    The steps of a spawn run in this order: ``grant`` reserves CPUs and memory, ``load`` puts a kernel
    image there, ``start`` starts it. Each raises HarnessError when the host kernel refuses.
    """

    name: str
    kimage: str
    """The /proc file that lists loaded images."""
    host_arguments: Callable[[Topology], tuple[str, ...]]
    """Command line arguments that the host kernel needs."""
    spawned_arguments: Callable[[Topology, SpawnedKernel], tuple[str, ...]]
    """Command line arguments that the spawned kernel needs."""
    grant: Callable[[Kernel, Topology, SpawnedKernel], Instance]
    load: Callable[[Kernel, Instance, Image, str], None]
    """Load an image with the given command line."""
    start: Callable[[Kernel, Instance], None]
    to_spawned: Callable[[Instance], int]
    """The destination that a message from the host to an instance is addressed to."""
    to_host: int
    """The destination that a message from an instance to the host is addressed to."""
    start_argument: Callable[[Instance], int] = lambda instance: instance.id
    """What the start's argument points to: the instance's id, or a CPU."""
    host_cpus: Callable[[Kernel], tuple[int, ...]] = lambda host: (0,)
    """Every destination that should reach the host from an instance."""
    longest_message: int = 232
    """Bytes of payload. Source: RFC v2 14/16."""
    memory_argument: Callable[[str], str] = "mkkernel_pool=16M@{}".format
    """The host's command line argument that names memory, with another address."""
    takeover: tuple[str, ...] = ()
    """What tells a host that was started by kexec, and not by KHO, of kernels that run already."""
    linux: Image = LINUX
    """The kernel under test, in the form that ``load`` takes."""
    pooled: bool = True
    """Whether the host sets the topology's pool aside; where it does not, that is the host's own memory."""
    numbers: Numbers | None = None
    """The constants of its system calls, where instances have ids."""


def console_arguments(topology: Topology, name: str) -> tuple[str, ...]:
    """Return the arguments that give kernel ``name`` its own console and agent line."""
    console, agent = (topology.serial_line(line) for line in (name, f"{name}.agent"))
    if console.bus == "pci":
        return (*_told_arguments(console, agent), f"mkh.name={name}")
    fence = any(serial.bus == "pci" for serial in topology.serial)
    return (
        f"earlyprintk=serial,{console.address:#x},115200",
        f"console=ttyS{console.port},115200",
        # The driver probes every port below this number, other kernels' ports as well.
        f"8250.nr_uarts={max(console.port, agent.port) + 1}",
        # PCI ports belong to spawned kernels, and the host's PCI driver would take them.
        *(("initcall_blacklist=serial_pci_driver_init",) if fence else ()),
        f"mkh.name={name}",
        f"mkh.console=ttyS{console.port}",
        f"mkh.agent=ttyS{agent.port}",
    )


def _told_arguments(console: SerialLine, agent: SerialLine) -> tuple[str, ...]:
    """Return the arguments for ports that no driver finds by itself.

    No argument puts the 8250 driver there, so what the kernel prints goes out by the early console
    for good, and its user space (mkh.io) moves ttyS0 and ttyS1 from the ISA ports to these.
    """
    return (
        f"earlyprintk=serial,{console.address:#x},115200,keep",
        # No other console: one on ttyS0 would print everything again.
        "console=null",
        "8250.nr_uarts=2",
        "mkh.console=ttyS0",
        "mkh.agent=ttyS1",
        f"mkh.io={console.address:#x},{agent.address:#x}",
    )


def load_by_file(numbers: Numbers) -> Callable[[Kernel, Instance, Image, str], None]:
    """Load into an instance by kexec_file_load(2), its id in the flags. Source: RFC v2 15/16."""

    def load(host: Kernel, instance: Instance, image: Image, arguments: str) -> None:
        flags = numbers.load_flag | instance.id << numbers.id_shift
        files = f"{image.kernel} {image.initrd or '-'}"
        host.run(f"mkctl load-file {files} {shlex.quote(arguments)} {flags:#x}", timeout=30)

    return load


def start_call(dialect: Dialect, instance: Instance) -> str:
    """Return the call of reboot(2) that starts an instance's loaded kernel, for harness.multikernel.calls."""
    argument = dialect.start_argument(instance)
    return f"reboot {MAGIC1:#x} {MAGIC2} {REBOOT_CMD_START:#x} i32:{argument}"


def start_by_id(host: Kernel, instance: Instance) -> None:
    """Start an instance's loaded kernel by its id. Source: RFC v2 08/16."""
    host.run(f"mkctl multikernel {REBOOT_CMD_START:#x} {instance.id}")


def pool_arguments(topology: Topology) -> tuple[str, ...]:
    """Set the pool's memory aside in the host kernel. Source: RFC v2 06/16."""
    return (f"mkkernel_pool={topology.pool.size >> 10}K@{topology.pool.start:#x}",)


def grant_by_device_tree(host: Kernel, topology: Topology, spawned: SpawnedKernel) -> Instance:
    """Write the instance's device tree in one write(2). Source: RFC v2 08/16.

    The host kernel takes the CPUs offline by itself and names the memory in /proc/iomem.
    """
    apic_ids = parse_apic_ids(host.read("/proc/cpuinfo"))
    mount(host)
    write_blob(host, instances_blob([spawned]), f"{MOUNT}/device_tree")
    ram = granted_ram(host, spawned)
    return Instance(spawned, tuple(sorted(apic_ids[cpu] for cpu in spawned.cpus)), ram)


def write_blob(host: Kernel, blob: bytes, path: str) -> None:
    """Hand the host kernel a device tree in one write(2)."""
    host.channel.put("/run/blob.dtb", blob)
    host.run(f"mkctl write-once /run/blob.dtb {path}")


def granted_ram(host: Kernel, spawned: SpawnedKernel) -> Region:
    """Return the memory that the host kernel's /proc/iomem names as an instance's."""
    resource = f"mk-instance-{spawned.id}-{spawned.name}-region-"
    regions = [r.region for r in host.iomem() if r.name.startswith(resource)]
    if len(regions) != 1:
        raise HarnessError(f"/proc/iomem of the host should list one {resource}*, it lists {len(regions)}")
    return regions[0]


def irq_arguments(topology: Topology, name: str) -> tuple[str, ...]:
    """Tell kernel ``name``'s user space the interrupts of its lines, where its driver guesses wrong."""
    irqs = {serial.line: serial.irq for serial in topology.serial}
    return (f"mkh.irq={irqs[name]},{irqs[f'{name}.agent']}",)


def unfenced_arguments(topology: Topology, name: str) -> tuple[str, ...]:
    """Return what keeps a kernel that sees the whole machine (v1, v2) off its host's hardware.

    Without noapic it reprograms the host's IO-APIC; without maxcpus=1 it sends INIT to the host's
    CPUs. With noapic the 8259, which the host leaves alone, delivers its serial interrupts; polling
    would do at a hundredth of the speed.
    """
    return ("noapic", "maxcpus=1", *tsc_arguments(), *irq_arguments(topology, name))


def low_window_arguments() -> tuple[str, ...]:
    """Keep the host out of the fixed area below 1 MiB."""
    return (f"memmap={LOW.region.size >> 10}K${LOW.region.start:#x}",)
