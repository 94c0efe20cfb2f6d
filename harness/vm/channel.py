# SPDX-License-Identifier: MIT
"""Commands to one kernel and files to and from it, over the agent's own serial line."""

from __future__ import annotations

import os
import secrets
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from harness.klog.splat import Splat
from harness.vm.command import ChannelError, Job, Result, brief, shown
from harness.vm.console import Console
from harness.vm.link import PAYLOAD_MAX, PROTOCOL_VERSION, Frame, Link, Type
from harness.vm.patience import Patience
from harness.vm.pump import Pump
from harness.vm.steps import Steps, ended

HELLO_INTERVAL = 0.25
KILL_GRACE = 1.0
"""Seconds between killing a command that timed out and no longer waiting for its end."""


class Channel:
    """One kernel's agent. Several threads may run commands at once, up to eight.

    ``kernel`` is the name that errors give. Waits end at once when ``ended`` says why the machine
    runs no more, and when the kernel's ``console`` shows trouble. Time-outs are in seconds of a
    computer with KVM and stretched by ``factor``.
    """

    def __init__(
        self,
        pump: Pump,
        *,
        kernel: str,
        console: Console | None = None,
        ended: Callable[[], str | None] = lambda: None,
        factor: float = 1.0,
        steps: Steps | None = None,
    ) -> None:
        self.kernel = kernel
        self.steps = steps or Steps()
        self._pump = pump
        self._console = console
        self._ended = ended
        self._factor = factor
        self._jobs: dict[int, Job] = {}
        self._last_number = 0
        self._text_lock = threading.Lock()
        self._link = Link(pump.write, pump.unsent, self._deliver)
        pump.subscribe(self._take)

    @property
    def ready(self) -> bool:
        """Whether an agent has answered and is not known to have gone."""
        return bool(self._link.session)

    @property
    def release(self) -> str:
        """The kernel's release as its agent told (uname -r)."""
        return self._link.greeting[4:].decode("utf-8", "replace")

    @property
    def resent(self) -> int:
        """How many frames had to be sent again so far."""
        return self._link.resent

    @property
    def idle(self) -> bool:
        """Whether no command is under way and the agent has everything that was sent to it."""
        with self._link.changed:
            return not self._jobs and not self._link.waiting and not self._pump.unsent()

    def wait_ready(self, timeout: float = 60.0, *, watch: bool = True) -> None:
        """Wait until the kernel's agent answers, and begin a new session with it.

        What an earlier session left running is killed. Raises ChannelError; unless ``watch`` is
        False also when the kernel's console has ever shown trouble.
        """
        # Not of `random`, which pytest's plugins seed: a fork's session would be the frozen machine's.
        nonce = 1 + secrets.randbelow((1 << 32) - 1)
        limit = time.monotonic() + timeout * self._factor
        patience = self._patience(timeout, "an answer of its agent")
        while self._link.session != nonce:
            if time.monotonic() >= limit:
                raise ChannelError(
                    f"{self.kernel}: its agent did not answer in {timeout * self._factor:g} s",
                    timed_out=True,
                    details=self._tail(),
                    advice=f"see the console of {self.kernel}: did its user space come up?",
                )
            self._link.hello(nonce)
            soon = min(limit, time.monotonic() + HELLO_INTERVAL)
            job = Job("an answer of its agent", soon, 0, 0, 0 if watch else None, patience=patience)
            self._wait(job, lambda: self._link.session == nonce)
        version = int.from_bytes(self._link.greeting[:4], "little")
        if version != PROTOCOL_VERSION:
            raise ChannelError(
                f"{self.kernel}: its agent speaks protocol {version}, the harness {PROTOCOL_VERSION}",
                advice="rebuild the initramfs",
            )

    def run(self, command: str, timeout: float = 30.0, *, watch: bool = True) -> Result:
        """Run a shell command and return its status and both streams, exactly.

        It is over when its shell is, whatever it left running in the background. Raises
        ChannelError when it does not end in ``timeout`` seconds (its process group is then killed)
        or, unless ``watch`` is False, when the kernel's console shows trouble meanwhile.
        """
        started = time.monotonic()
        step = self.steps.run(self.kernel, command)
        named = brief(command)
        with self._job(f"the end of the command {named}", timeout, watch) as job:
            self._text(Type.RUN, job, command.encode())
            if not self._wait(job, lambda: self._over(job)):
                ended(step, f"no end in {timeout * self._factor:g} s", job.stdout + job.stderr)
                self._kill(job)
                raise ChannelError(
                    f"{self.kernel}: the command {named} did not end in {timeout * self._factor:g} s",
                    timed_out=True,
                    details=f"stdout: {shown(job.stdout)}\nstderr: {shown(job.stderr)}",
                )
            status = os.waitstatus_to_exitcode(self._end(job, f"run {named}"))
            seconds = time.monotonic() - started
            ended(step, str(status), job.stdout + job.stderr)
            return Result(self.kernel, command, status, bytes(job.stdout), bytes(job.stderr), seconds)

    def put(self, path: str, data: bytes, mode: int = 0o644, timeout: float = 60.0) -> None:
        """Write ``data`` to the file ``path`` in the guest. Raises ChannelError."""
        self.steps.put(self.kernel, path, data)
        with self._job(f"the file {path} to be written", timeout) as job:
            self._text(Type.PUT, job, f"{mode:o} {path}".encode())
            for start in range(0, len(data), PAYLOAD_MAX):
                self._send(Type.DATA, job, data[start : start + PAYLOAD_MAX])
                if self._over(job):
                    break
            self._send(Type.CLOSE, job)
            self._require(job)
            self._end(job, f"write {path}")

    def get(self, path: str, timeout: float = 60.0) -> bytes:
        """Return what the guest's file ``path`` holds. Raises ChannelError."""
        with self._job(f"the file {path} to be read", timeout) as job:
            self._text(Type.GET, job, path.encode())
            self._require(job)
            self._end(job, f"read {path}")
            return bytes(job.stdout)

    def wake(self) -> None:
        """Let every wait look again at whether there is still hope."""
        with self._link.changed:
            self._link.changed.notify_all()

    @contextmanager
    def _job(self, what: str, timeout: float, watch: bool = True) -> Iterator[Job]:
        limit = time.monotonic() + timeout * self._factor
        if not self.ready:
            self.wait_ready(timeout, watch=watch)
        mark = self._console.mark if self._console and watch else None
        with self._link.changed:
            self._last_number += 1
            number = self._last_number
            job = Job(what, limit, self._link.session, number, mark, patience=self._patience(timeout, what))
            self._jobs[number] = job
        try:
            yield job
        finally:
            self._jobs.pop(number, None)

    def _text(self, kind: Type, job: Job, text: bytes) -> None:
        # The parts of two commands must not mix: the agent gathers one text at a time.
        *first, last = [text[i : i + PAYLOAD_MAX] for i in range(0, len(text), PAYLOAD_MAX)] or [b""]
        with self._text_lock:
            for part in first:
                self._send(Type.TEXT, job, part)
            self._send(kind, job, last)

    def _send(self, kind: Type, job: Job, payload: bytes = b"") -> None:
        while not self._over(job):
            if not self._wait(job, lambda: self._link.room or self._over(job)):
                raise ChannelError(
                    f"{self.kernel}: its agent stopped listening; awaited was {job.what}",
                    details=self._tail(),
                    timed_out=True,
                )
            with self._link.changed:
                if self._link.room and not self._over(job):
                    self._link.send(kind, job.number, payload)
                    return

    def _require(self, job: Job) -> None:
        if not self._wait(job, lambda: self._over(job)):
            what = f"{self.kernel}: a time-out came before {job.what}"
            raise ChannelError(what, details=self._tail(), timed_out=True)

    def _over(self, job: Job) -> bool:
        return job.exit is not None or self._link.session != job.session

    def _end(self, job: Job, what: str) -> int:
        """Return the wait status of a job that is over. Raises ChannelError."""
        if job.exit is None:
            raise ChannelError(
                f"{self.kernel}: cannot {what}: its agent started anew",
                details=self._tail(),
                advice=f"see the console of {self.kernel}: did the kernel or the agent die?",
            )
        status, error = job.exit
        if error:
            raise ChannelError(f"{self.kernel}: cannot {what}: {os.strerror(error)}")
        return status

    def _kill(self, job: Job) -> None:
        """Kill a command that timed out; the error to raise is the time-out, whatever happens here."""
        job.limit, job.patience = time.monotonic() + KILL_GRACE * self._factor, None
        with suppress(ChannelError):
            self._send(Type.KILL, job, bytes([signal.SIGKILL]))
            self._wait(job, lambda: self._over(job))

    def _wait(self, job: Job, ready: Callable[[], bool]) -> bool:
        """Wait, sending again what was lost. False when the job's limit passed."""
        with self._link.changed:
            while not ready():
                if job.patience is not None:
                    job.patience.over()
                ended, splat = self._ended(), self._splat(job)
                if ended is not None or splat is not None:
                    break
                left = job.limit - time.monotonic()
                if left <= 0:
                    return False
                self._link.changed.wait(min(left, 0.1))
                self._link.tick()
            else:
                return True
        raise self._given_up(job, ended, splat)

    def _splat(self, job: Job) -> Splat | None:
        """Return what on the console speaks against waiting any longer."""
        if self._console is None or job.mark is None:
            return None
        return self._console.splat(0 if self._console.panicked else job.mark)

    def _given_up(self, job: Job, ended: str | None, splat: Splat | None) -> ChannelError:
        details = ""
        if self._console is not None:
            splat, details = self._console.evidence(splat)
        reason = ended or (f"its kernel printed {splat.line!r}" if splat else "")
        return ChannelError(f"{self.kernel}: {reason}; awaited was {job.what}", details=details, splat=splat)

    def _patience(self, timeout: float, what: str) -> Patience:
        last = self._console.last_word if self._console is not None else str
        return Patience(timeout * self._factor, f"{what} of {self.kernel}", last)

    def _tail(self) -> str:
        return f"The last lines of its console:\n{self._console.tail()}" if self._console else ""

    def _take(self, data: bytes, now: float) -> None:
        self._link.feed(data)

    def _deliver(self, frame: Frame) -> None:
        job = self._jobs.get(frame.id)
        if job is None:
            return
        if frame.type is Type.STDOUT:
            job.stdout += frame.payload
        elif frame.type is Type.STDERR:
            job.stderr += frame.payload
        elif frame.type is Type.EXIT and len(frame.payload) == 8:
            status, error = frame.payload[:4], frame.payload[4:]
            job.exit = int.from_bytes(status, "little"), int.from_bytes(error, "little")
