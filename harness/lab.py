# SPDX-License-Identifier: MIT
"""A build and a topology in, running kernels out: what demo, console, bench and tests share."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass
from typing import Self

from harness.build import Build
from harness.definition import SpawnedKernel, Topology
from harness.multikernel.dialect import Dialect, console_arguments
from harness.multikernel.dialects import find_dialect
from harness.multikernel.instance import Instance
from harness.multikernel.kernel import Heartbeat, Kernel
from harness.progress import Progress
from harness.vm.accel import Accel
from harness.vm.machine import Machine, MachineSpec

BOOT_TIMEOUT = 120.0
"""Seconds that a kernel has from its start to its user space, before scaling by the accelerator."""


@dataclass(frozen=True)
class Pair:
    """Two live kernels: the host and one spawned kernel, with what was granted to it."""

    lab: Lab
    host: Kernel
    spawned: Kernel
    instance: Instance
    arguments: tuple[str, ...]
    before_spawn: Heartbeat


class Lab:
    """One machine with its host kernel and the kernels spawned so far.

    A context manager: entering it boots the host kernel, leaving it ends the machine. Raises
    HarnessError with the console's last lines when a kernel does not come up.
    """

    def __init__(self, build: Build, topology: Topology, accel: Accel, progress: Progress) -> None:
        self.build = build
        self.topology = topology
        self.accel = accel
        self.progress = progress
        self.dialect: Dialect = find_dialect(build.definition.dialect)
        arguments = (*console_arguments(topology, "host"), *self.dialect.host_arguments(topology))
        self.machine = Machine(
            MachineSpec(
                kernel=build.bzimage,
                initrd=build.host_initrd,
                cmdline=" ".join(arguments),
                vcpus=topology.vcpus,
                memory_mib=topology.memory_mib,
                machine=topology.machine,
                cpu=topology.cpu,
                serial=topology.serial,
            ),
            accel,
        )
        self.host: Kernel
        self._pairs: dict[str, Pair] = {}

    def __enter__(self) -> Self:
        with ExitStack() as undo, self.progress.step(f"booting the host kernel ({self.accel.name})") as step:
            undo.enter_context(self.machine)
            self.host = self._kernel("host")
            self._wait_for_user_space(self.host)
            self.host.start_heartbeat()
            step.done(
                f"Linux {self.build.version}, {self.topology.vcpus} CPUs, {self.topology.memory_mib} MiB"
            )
            undo.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self.machine.end()

    def pair(self, name: str | None = None) -> Pair:
        """Return the host and the spawned kernel ``name``, spawning it at the first call.

        Without a name it is the topology's first spawned kernel.
        """
        spawned = next(k for k in self.topology.spawned if name in (None, k.name))
        if spawned.name not in self._pairs:
            self._pairs[spawned.name] = self._spawn(spawned)
        return self._pairs[spawned.name]

    def _spawn(self, granted: SpawnedKernel) -> Pair:
        host = self.host
        before = host.heartbeat()
        arguments = self.dialect.spawned_arguments(self.topology, granted)
        kernel = self._kernel(granted.name)
        cpus = ", ".join(map(str, granted.cpus))
        with self.progress.step(f"granting {granted.name} CPU {cpus} and {granted.memory >> 20} MiB"):
            instance = self.dialect.grant(host, self.topology, granted)
        with self.progress.step(f"loading {granted.name}'s kernel by kexec"):
            self.dialect.load(host, instance, " ".join(arguments))
        with self.progress.step(f"starting {granted.name} on CPU {granted.cpus[0]}") as step:
            self.dialect.start(host, instance)
            kernel.console.expect(r"Linux version", timeout=BOOT_TIMEOUT)
            step.update("its kernel prints")
            self._wait_for_user_space(kernel)
            step.done("it reached user space")
        return Pair(self, host, kernel, instance, arguments, before)

    def _kernel(self, name: str) -> Kernel:
        return Kernel(name, self.machine.console(name), self.machine.channel(name), self.accel.factor)

    def _wait_for_user_space(self, kernel: Kernel) -> None:
        kernel.console.expect(rf"mkh: user space is up on {kernel.name}", timeout=BOOT_TIMEOUT)
        kernel.channel.wait_ready(timeout=BOOT_TIMEOUT)
