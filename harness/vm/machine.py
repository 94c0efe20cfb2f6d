# SPDX-License-Identifier: MIT
"""One running QEMU: its life, its death and the cause, its lines."""

from __future__ import annotations

import os
import queue
import shlex
import signal
import socket
import subprocess
import tempfile
import threading
import time
from contextlib import ExitStack, suppress
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, Self, TypeVar

from harness import process
from harness.errors import HarnessError, UsageError
from harness.vm.accel import Accel, choose, instead_of
from harness.vm.channel import Channel
from harness.vm.console import Console
from harness.vm.fifo import Fifos
from harness.vm.memory import open_ram
from harness.vm.origin import Origin
from harness.vm.patience import Patience
from harness.vm.pump import Pump
from harness.vm.qmp import Qmp, QmpError
from harness.vm.spec import MachineSpec, arguments, program
from harness.vm.state import REASONS, Cause, State
from harness.vm.steps import Steps

__all__ = ["Cause", "Machine", "MachineSpec", "State"]

QEMU = "qemu-system-x86_64"
AGENT = ".agent"
STDERR_MAX = 65536
EARLY = 1.0
"""Seconds: a QEMU under KVM that dies sooner has not run the guest."""
T = TypeVar("T")


class Machine:
    """A QEMU that lives as long as the ``with`` block, and never longer than the harness.

    A serial line called ``NAME`` is kernel NAME's console, ``NAME.agent`` its agent's line. All
    consoles are read from the first byte on. ``ram`` is the file that the guest's memory maps.
    With an ``origin`` it does not boot but goes on where another machine was frozen.

    When KVM makes QEMU die at once, it is started again under TCG, once: ``accel`` is then what
    runs it, and ``fell_back`` says why.
    """

    def __init__(
        self,
        spec: MachineSpec,
        accel: Accel | None = None,
        *,
        qemu: str = QEMU,
        ram_folders: tuple[Path, ...] | None = None,
        origin: Origin | None = None,
    ) -> None:
        self.spec = spec
        self.accel = accel or choose()
        self.state = State.GONE
        self.cause: Cause | None = None
        self.end_awaited = False
        self.fell_back: str | None = None
        self.argv: list[str] = []
        self.steps = Steps()
        self.ram: BinaryIO
        self.qmp = Qmp(spec.kernel.name, self._on_event)
        self.consoles: dict[str, Console] = {}
        self.channels: dict[str, Channel] = {}
        self._qemu = qemu
        self._origin = origin or Origin(partial(open_ram, spec.memory_mib << 20, ram_folders))
        self._pumps: list[Pump] = []
        self._stderr: BinaryIO
        self._last_words = b""
        self._process: subprocess.Popen[bytes]
        self._started = 0.0
        self._died_early = False
        self._changed = threading.Condition()
        self._resources = ExitStack()

    def __enter__(self) -> Self:
        try:
            self._begin()
        except HarnessError:
            if not self._died_early:
                raise
            self.fell_back = f"KVM ended QEMU at once, TCG goes on; it wrote: {self.stderr or '(nothing)'}"
            self.accel = instead_of(self.accel, self.fell_back)
            self.qmp = Qmp(self.spec.kernel.name, self._on_event)
            self._pumps.clear()
            self._begin()
        return self

    def _begin(self) -> None:
        with ExitStack() as undo:
            undo.callback(self._resources.close)
            self._start()
            undo.pop_all()

    def __exit__(self, *_: object) -> None:
        self.end()

    @property
    def command_line(self) -> str:
        """QEMU's command line as a shell would take it; descriptors stand for files and sockets."""
        return shlex.join(self.argv)

    @property
    def pid(self) -> int:
        """QEMU's process id."""
        return self._process.pid

    @property
    def stderr(self) -> str:
        """What QEMU has written to standard error."""
        self._read_stderr()
        return self._last_words.decode("utf-8", "replace").strip()

    def console(self, kernel: str) -> Console:
        """Return the console of ``kernel``. Raises UsageError when the machine has none."""
        return _named(self.consoles, kernel, "console")

    def channel(self, kernel: str) -> Channel:
        """Return the command channel of ``kernel``. Raises UsageError when the machine has none."""
        return _named(self.channels, kernel, "agent's line")

    def ended(self) -> str | None:
        """Say why the guest runs no more, or None while it runs or is only frozen."""
        if self.cause is Cause.CRASHED:
            return f"{self.cause.value}: {self.stderr or 'it wrote nothing'}"
        return self.cause.value if self.cause is not None else None

    def wait_end(self, timeout: float = 60.0) -> Cause:
        """Wait until the guest has stopped for good. Raises HarnessError after ``timeout`` seconds.

        The time-out is stretched by the accelerator's factor.
        """
        self.end_awaited = True
        limit = timeout * self.accel.factor
        with self._changed:
            patience = Patience(limit, "the machine to end")
            while self.cause is None and not patience.over():
                self._changed.wait(max(patience.left, 0.01))
            if self.cause is None:
                what = f"the machine should have ended, and was still {self.state.value} after {limit:.0f} s"
                raise HarnessError(what, timed_out=True)
            return self.cause

    def freeze(self) -> None:
        """Stop all vCPUs. Raises QmpError when QEMU cannot."""
        self.qmp.execute("stop")
        self._move(State.FROZEN, (State.LIVE,))

    def thaw(self) -> None:
        """Let all vCPUs go on. Raises HarnessError when the machine is not frozen."""
        if self.state is not State.FROZEN:
            raise HarnessError(f"the machine is {self.state.value}, not frozen")
        self.qmp.execute("cont")
        self._move(State.LIVE, (State.FROZEN,))

    def drain(self) -> None:
        """Wait until everything that the guest has printed is in the transcripts."""
        for pump in self._pumps:
            pump.drain()

    def end(self, cause: Cause = Cause.CLOSED) -> None:
        """End QEMU and free everything. Harmless when it was done before."""
        self._stop(State.GONE, cause)
        self._resources.close()

    def _start(self) -> None:
        qemu = program(self._qemu, self.spec)
        self._stderr = self._resources.enter_context(tempfile.TemporaryFile())  # noqa: SIM115
        self._resources.callback(self._read_stderr)
        self.ram = self._resources.enter_context(self._origin.ram())
        names = [serial.line for serial in self.spec.serial]
        near, far = socket.socketpair()
        self._resources.callback(near.close)
        with Fifos(names) as fifos, far, self._origin.opened() as state:
            lines = [fifos.path(name) for name in names]
            options = arguments(
                self.spec,
                self.accel,
                self.ram.fileno(),
                lines,
                far.fileno(),
                private=self._origin.private,
                incoming=state is not None,
            )
            self.argv = [qemu, *options]
            # Consoles first: a channel watches its kernel's.
            for name in sorted(names, key=lambda name: name.endswith(AGENT)):
                self._attach(name, *fifos.open(name))
            self._started = time.monotonic()
            self._process = process.popen(
                self.argv,
                stdin=subprocess.DEVNULL,
                stdout=self._stderr,
                stderr=self._stderr,
                pass_fds=[file.fileno() for file in (far, self.ram, state) if file is not None],
            )
            self._resources.callback(self._process.wait)
            self._resources.callback(self._process.kill)
            self._resources.callback(self.qmp.close)
            far.close()
            self.state = State.LIVE
            try:
                # QEMU opens its lines before it greets; a line that nobody has open reads as ended.
                self.qmp.connect(near)
                self._origin.begin(self.qmp, state)
            except QmpError as error:
                self._fail(error)
        self._start_pumps()
        threading.Thread(target=self._watch, name=f"watch {self.pid}", daemon=True).start()

    def _start_pumps(self) -> None:
        """Begin to read; a machine that boots under KVM has to show first that it lives.

        It does by its first word, or by an EARLY second without an end.
        """
        signs: queue.SimpleQueue[bytes] = queue.SimpleQueue()
        with ExitStack() as subscriptions:
            for pump in self._pumps:
                subscriptions.callback(pump.subscribe(lambda data, now: signs.put(data)))
                pump.start()
            if self._doubtful:
                with suppress(queue.Empty):
                    if not signs.get(timeout=EARLY):
                        self._fail(QmpError("it closed its serial lines"))

    @property
    def _doubtful(self) -> bool:
        """Whether KVM may prove to be no good: it has run no guest of this kind yet."""
        return self.accel.name == "kvm" and self._origin.state is None

    def _attach(self, line: str, source: BinaryIO, sink: BinaryIO) -> None:
        pump = Pump(source, sink, line)
        self._pumps.append(pump)
        self._resources.callback(pump.close)
        factor = self.accel.factor
        kernel = line.removesuffix(AGENT)
        if line == kernel:
            history = self._origin.histories.get(kernel)
            self.consoles[kernel] = Console(pump, ended=self.ended, factor=factor, history=history)
        else:
            console = self.consoles.get(kernel)
            self.channels[kernel] = Channel(
                pump,
                kernel=kernel,
                console=console,
                ended=self.ended,
                factor=factor,
                steps=self.steps,
            )

    def _fail(self, error: QmpError) -> None:
        """Raise what made QEMU end at its start."""
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(2)
        status = self._process.poll()
        early = status is not None and time.monotonic() - self._started < EARLY
        self._died_early = early and self._doubtful
        how = "does not answer" if status is None else f"ended at once with status {status}"
        self.state = State.GONE
        raise self._origin.failure(
            f"QEMU {how}: {error.what}",
            f"It wrote: {self.stderr or '(nothing)'}\nCommand line: {self.command_line}",
        ) from None

    def _read_stderr(self) -> None:
        if not self._stderr.closed:
            self._last_words = os.pread(self._stderr.fileno(), STDERR_MAX, 0)

    def _watch(self) -> None:
        """Wait for QEMU's end and say what it was."""
        status = self._process.wait()
        killed = -status in {signal.SIGKILL, signal.SIGTERM, signal.SIGINT}
        self.drain()
        self._stop(State.GONE, Cause.LOST if killed else Cause.CRASHED)

    def _on_event(self, event: dict[str, Any]) -> None:
        if event["event"] == "SHUTDOWN":
            cause = REASONS.get(event["data"].get("reason", ""))
            if cause is not None:
                # What the guest printed last is to be seen by those whose wait ends now.
                self.drain()
                self._stop(State.WRECKED, cause)

    def _stop(self, state: State, cause: Cause) -> None:
        """Record that the guest has stopped; the first cause stands."""
        with self._changed:
            self.cause = self.cause or cause
            self.state = state
            self._changed.notify_all()
        for console in self.consoles.values():
            console.wake()
        for channel in self.channels.values():
            channel.wake()

    def _move(self, state: State, allowed: tuple[State, ...]) -> None:
        with self._changed:
            if self.state in allowed:
                self.state = state


def _named(lines: dict[str, T], kernel: str, what: str) -> T:
    if kernel not in lines:
        raise UsageError(
            f"the machine has no {what} for kernel {kernel!r}",
            advice=f"choose one of: {', '.join(lines)}, or add a serial line to the topology",
        )
    return lines[kernel]
