# SPDX-License-Identifier: MIT
"""How one generation of the multikernel patches is driven: a composition of plain functions.

A dialect holds no state and starts no process; every function drives the host kernel through its
agent. A new generation is a new module that composes one ``Dialect``, mostly out of what is here.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from harness.definition import SpawnedKernel, Topology
from harness.multikernel.instance import Instance
from harness.multikernel.kernel import Kernel

REBOOT_CMD_START = 0x4D4B4C49
"""reboot(2) command that starts a loaded kernel. Source: LINUX_REBOOT_CMD_MULTIKERNEL in all posts."""


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
    load: Callable[[Kernel, Instance, str], None]
    """Load /boot's kernel and initrd with the given command line."""
    start: Callable[[Kernel, Instance], None]
    to_spawned: Callable[[Instance], int]
    """The destination that a message from the host to an instance is addressed to."""
    to_host: int
    """The destination that a message from an instance to the host is addressed to."""


def console_arguments(topology: Topology, name: str) -> tuple[str, ...]:
    """Return the arguments that give kernel ``name`` its own console and agent line."""
    ports = (0x3F8, 0x2F8, 0x3E8, 0x2E8)
    console = topology.port(name)
    agent = topology.port(f"{name}.agent")
    return (
        f"earlyprintk=serial,{ports[console]:#x},115200",
        f"console=ttyS{console},115200",
        # The driver probes every port below this number, other kernels' ports as well.
        f"8250.nr_uarts={max(console, agent) + 1}",
        f"mkh.name={name}",
        f"mkh.console=ttyS{console}",
        f"mkh.agent=ttyS{agent}",
    )


def start_by_id(host: Kernel, instance: Instance) -> None:
    """Start an instance's loaded kernel by its id. Source: RFC v2 08/16."""
    host.run(f"mkctl multikernel {REBOOT_CMD_START:#x} {instance.id}")
