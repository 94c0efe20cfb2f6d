# SPDX-License-Identifier: MIT
"""A build and a topology in, running kernels out: what demo, console, bench and tests share."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

import msgspec
import numpy as np

from harness import process
from harness.build import Build
from harness.definition import SpawnedKernel, Topology
from harness.errors import HarnessError
from harness.multikernel.dialect import Dialect, console_arguments
from harness.multikernel.dialects import find_dialect
from harness.multikernel.instance import Instance
from harness.multikernel.kernel import Heartbeat, Kernel
from harness.multikernel.layout import HOST
from harness.oracle.canaries import find_canaries
from harness.oracle.partition import pages_in
from harness.progress import Progress
from harness.vm import serialport, snapshot
from harness.vm.accel import Accel
from harness.vm.command import ChannelError
from harness.vm.console import printed
from harness.vm.machine import Machine, MachineSpec
from harness.vm.migration import ForkError
from harness.vm.ram import ram_of
from harness.vm.ram_pages import Pages
from harness.vm.ram_server import RamServer
from harness.vm.snapshot import Stage
from harness.vm.steps import Step
from harness.vm.tsc import tsc_arguments

BOOT_TIMEOUT = 40.0
"""Seconds that a kernel has from its start to its user space, before scaling by the accelerator."""
NO_TIMER_CHECK = "no_timer_check"
"""A guest under KVM leaves out by itself the check that timer interrupts come, since time may stand
still for it. Under TCG on a busy computer none may come within the check's ten ticks, and the kernel
panics: IO-APIC + timer doesn't work!"""
HOST_CANARIES, SPAWNED_CANARIES = 8, 2
"""MiB of memory that nobody should write, in each kernel of a stage."""
RESUME_TIMEOUT = 10.0
"""Seconds that a kernel's agent has to answer after a fork, before scaling by the accelerator."""


@dataclass(frozen=True)
class Spawned:
    """What is known of a spawned kernel: its instance, its command line, the host's heartbeat before."""

    instance: Instance
    arguments: tuple[str, ...]
    before_spawn: Heartbeat


class Frozen(msgspec.Struct, frozen=True):
    """What a stage keeps of its lab: the kernels spawned, each one's canaries by pages, what was done."""

    spawned: tuple[Spawned, ...]
    canaries: dict[str, list[int]]
    steps: tuple[Step, ...] = ()


@dataclass(frozen=True, repr=False)
class Pair:
    """Two live kernels: the host and one spawned kernel, with what was granted to it."""

    lab: Lab
    host: Kernel
    spawned: Kernel
    instance: Instance
    arguments: tuple[str, ...]
    before_spawn: Heartbeat

    def __repr__(self) -> str:
        # It stands above each failure.
        return f"<host and {self.instance.name}>"


FAILING: list[Callable[[Lab, HarnessError], None]] = []
"""Called with a machine that is about to end because of an error."""


@contextmanager
def attempted() -> Iterator[None]:
    """Call nobody in FAILING while the block runs: what fails there tells what a kernel can do, no more."""
    callers, FAILING[:] = list(FAILING), []
    try:
        yield
    finally:
        FAILING[:] = callers


class Lab:
    """One machine with its host kernel and the kernels spawned so far.

    A context manager: entering it boots the host kernel, or forks a machine from ``stage``; leaving
    it ends the machine. Raises HarnessError with the console's last lines when a kernel does not
    come up, ForkError when a fork does not go on. With a stage and ``ram_folders`` the memory is a
    copy in one of these folders, and the machine can be frozen.
    """

    def __init__(
        self,
        build: Build,
        topology: Topology,
        accel: Accel,
        progress: Progress,
        *,
        stage: Stage | None = None,
        ram_folders: tuple[Path, ...] | None = None,
    ) -> None:
        self.build = build
        self.topology = topology
        self.accel = accel
        self.progress = progress
        dialect = find_dialect(build.definition.dialect)
        # Whoever grants something by this dialect, it is remembered here.
        self.dialect: Dialect = replace(dialect, grant=self._grant_by(dialect))
        self.stage = stage
        self._ram_folders = ram_folders
        if stage is None:
            self.machine = Machine(machine_spec(build, topology), accel, ram_folders=ram_folders)
        elif ram_folders is None:
            self.machine = stage.fork(accel)
        else:
            self.machine = stage.derive(accel, ram_folders)
        self.host: Kernel
        self.granted: list[Instance] = []
        self.canaries: dict[str, Pages] = {}
        self.successors: dict[str, int] = {}
        """Kernels that took another's place on this machine, and their consoles' marks once they were up."""
        self._pairs: dict[str, Pair] = {}
        self._memory: RamServer | None = None
        self._resources = ExitStack()

    def __repr__(self) -> str:
        # It stands above each failure.
        return f"<machine of {self.topology.vcpus} CPUs, {self.machine.ended() or self.machine.state.value}>"

    def __enter__(self) -> Self:
        if self.stage is not None:
            self._resume(self.stage)
        else:
            self._boot()
        return self

    def _boot(self) -> None:
        with ExitStack() as undo, self.progress.step(f"booting the host kernel ({self.accel.name})") as step:
            undo.enter_context(self.machine)
            undo.push(self._failing)
            self.accel = self.machine.accel
            if self.machine.fell_back:
                step.update(self.machine.fell_back)
            self.host = self.kernel("host")
            self.await_user_space(self.host)
            self.host.start_heartbeat()
            self._release_canaries(self.host, HOST_CANARIES)
            step.done(
                f"Linux {self.build.version}, {self.topology.vcpus} CPUs, {self.topology.memory_mib} MiB"
                + (f" ({self.machine.fell_back})" if self.machine.fell_back else "")
            )
            undo.pop_all()

    def _resume(self, stage: Stage) -> None:
        with ExitStack() as undo:
            undo.enter_context(self.machine)
            self.host = self.kernel("host")
            frozen = msgspec.json.decode(stage.meta.payload, type=Frozen)
            self.canaries = {name: np.array(pages, np.int64) for name, pages in frozen.canaries.items()}
            self.machine.steps.before(frozen.steps)
            for known in frozen.spawned:
                kernel = self.kernel(known.instance.name)
                self.granted.append(known.instance)
                self._pairs[kernel.name] = self._pair(kernel, known)
            kernels = [self.host, *(pair.spawned for pair in self._pairs.values())]
            try:
                with ThreadPoolExecutor(len(kernels)) as pool:
                    list(pool.map(lambda kernel: kernel.channel.wait_ready(RESUME_TIMEOUT), kernels))
            except ChannelError as error:
                raise ForkError(f"a kernel did not go on: {error.what}", details=error.details) from None
            undo.pop_all()

    def freeze(self, folder: Path) -> None:
        """Freeze the machine into ``folder`` as a stage to fork from, and end it."""
        known = tuple(Spawned(p.instance, p.arguments, p.before_spawn) for p in self._pairs.values())
        self._find_canaries()
        canaries = {name: pages.tolist() for name, pages in self.canaries.items()}
        snapshot.freeze(self.machine, folder, Frozen(known, canaries, tuple(self.machine.steps)))

    def _release_canaries(self, kernel: Kernel, mib: int) -> None:
        """Have a kernel hold pages that nobody should write, for the stage that may come of this machine."""
        if self._ram_folders is not None:
            kernel.run(f"mkctl canary {mib}")

    def replaced(self, name: str) -> None:
        """Note that another kernel has come up in place of ``name``: nothing is known of its memory."""
        self.canaries.pop(name, None)
        self.successors[name] = self.machine.console(name).mark

    def _find_canaries(self) -> None:
        """Note which pages are whose canaries: a spawned kernel's are in its own memory."""
        pages = find_canaries(ram_of(self.machine))
        own = {instance.name: pages_in(pages, [instance.ram]) for instance in self.granted}
        self.canaries = {**own, HOST: np.setdiff1d(pages, np.concatenate([*own.values(), pages[:0]]))}

    def _grant_by(self, dialect: Dialect) -> Callable[[Kernel, Topology, SpawnedKernel], Instance]:
        def grant(host: Kernel, topology: Topology, spawned: SpawnedKernel) -> Instance:
            instance = dialect.grant(host, topology, spawned)
            self.granted.append(instance)
            return instance

        return grant

    @property
    def pairs(self) -> tuple[Pair, ...]:
        """The spawned kernels so far, each with the host."""
        return tuple(self._pairs.values())

    def _failing(self, kind: object, error: BaseException | None, trace: object) -> None:
        """Let those look at the machine, before it ends, who want to know why it does not get to a stage."""
        if isinstance(error, HarnessError):
            for look in FAILING:
                look(self, error)

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        self._failing(kind, error, trace)
        self._resources.close()
        self.machine.end()

    def serve_memory(self) -> Path:
        """Serve the machine's memory to this user's processes until it ends; return the socket's path.

        See harness.vm.ram_server: only the process that started QEMU, or root, may read it directly.
        """
        if self._memory is None:
            path = process.scratch() / f"ram-{self.machine.pid}"
            self._memory = self._resources.enter_context(RamServer(ram_of(self.machine), path))
        return self._memory.path

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
        serial = serialport.located(self.topology.serial, self.machine.qmp)
        topology = msgspec.structs.replace(self.topology, serial=serial)
        arguments = self.dialect.spawned_arguments(topology, granted)
        kernel = self.kernel(granted.name)
        cpus = ", ".join(map(str, granted.cpus))
        with self.progress.step(f"granting {granted.name} CPU {cpus} and {granted.memory >> 20} MiB"):
            instance = self.dialect.grant(host, self.topology, granted)
        with self.progress.step(f"loading {granted.name}'s kernel by kexec"):
            self.dialect.load(host, instance, self.dialect.linux, " ".join(arguments))
        with self.progress.step(f"starting {granted.name} on CPU {granted.cpus[0]}") as step:
            self.dialect.start(host, instance)
            kernel.console.expect(r"Linux version", timeout=BOOT_TIMEOUT)
            step.update("its kernel prints")
            self.await_user_space(kernel)
            self._require_host(granted.name)
            self._release_canaries(kernel, SPAWNED_CANARIES)
            step.done("it reached user space")
        return self._pair(kernel, Spawned(instance, arguments, before))

    def _pair(self, kernel: Kernel, known: Spawned) -> Pair:
        return Pair(self, self.host, kernel, known.instance, known.arguments, known.before_spawn)

    def kernel(self, name: str) -> Kernel:
        """Return the kernel on the console ``name``, whether it is up or not."""
        return Kernel(name, self.machine.console(name), self.machine.channel(name), self.accel.factor)

    def _require_host(self, name: str) -> None:
        """Say so at once, and not in every test, when a spawned kernel has silenced its host."""
        try:
            self.host.run("true")
        except ChannelError as error:
            raise HarnessError(
                f"the host kernel does not answer any more since {name} was started",
                details=f"{error}\nThe last lines of {name}'s console:\n{self.machine.console(name).tail()}",
                advice=f"{name} may have reprogrammed interrupt controllers or reset CPUs: is it fenced?",
            ) from None

    def await_user_space(self, kernel: Kernel) -> None:
        """Wait until a kernel that was started has its user space and takes commands. Raises HarnessError."""
        kernel.console.expect(printed(f"mkh: user space is up on {kernel.name}"), timeout=BOOT_TIMEOUT)
        kernel.channel.wait_ready(timeout=BOOT_TIMEOUT)


def machine_spec(build: Build, topology: Topology) -> MachineSpec:
    """Return what QEMU is to run for the host kernel of a build."""
    dialect = find_dialect(build.definition.dialect)
    arguments = (
        *console_arguments(topology, "host"),
        *dialect.host_arguments(topology),
        NO_TIMER_CHECK,
        *tsc_arguments(build.hz),
        *topology.arguments,
    )
    return MachineSpec(
        kernel=build.bzimage,
        initrd=build.host_initrd,
        cmdline=" ".join(arguments),
        vcpus=topology.vcpus,
        memory_mib=topology.memory_mib,
        machine=topology.machine,
        cpu=topology.cpu,
        serial=topology.serial,
        cores=topology.cores,
        network=build.definition.ssh,
    )
