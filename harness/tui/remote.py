# SPDX-License-Identifier: MIT
"""A machine of another process, looked at from here."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from multiprocessing.connection import Client
from typing import Any, Self

import msgspec

from harness.errors import HarnessError, UsageError
from harness.tui.serve import Entry, entries
from harness.tui.source import Question
from harness.vm.transcript import Transcript

PATIENCE = 120.0
"""Seconds for an answer: a hanging host makes a map take long."""
GONE = "gone: the command that had this machine has ended"


def find(name: str) -> Entry:
    """Return the machine that ``name``, or its beginning, names. Raises UsageError."""
    known = entries()
    if not known:
        raise UsageError(
            "there is no machine to attach to",
            advice="`mkh console` starts one, `mkh test --pause-on-fail` keeps one",
        )
    hits = [one for one in known if one.name == name] or [one for one in known if one.name.startswith(name)]
    if len(hits) != 1:
        listed = "\n".join(f"{one.name}: {one.title}" for one in known)
        raise UsageError(
            f"{name!r} names {len(hits)} machines",
            details=f"There are:\n{listed}",
            advice="give one of these",
        )
    return hits[0]


class RemoteSource:
    """The machine of ``entry``, connected to while the ``with`` block lasts: a Source."""

    def __init__(self, entry: Entry) -> None:
        self.title = entry.title
        self.kernels: tuple[str, ...] = ()
        self.waits = entry.waits
        self._entry = entry
        self._state = "connecting"
        self._said: dict[str, Transcript] = {}
        self._changed: list[Callable[[], None]] = []
        self._number = itertools.count()
        self._asked: dict[int, Future[str]] = {}
        self._lock = threading.Lock()

    def __enter__(self) -> Self:
        try:
            self._connection = Client(self._entry.socket, "AF_UNIX")
            _, self.title, kernels, self.waits = self._receive()
        except (OSError, EOFError, ValueError) as error:
            raise HarnessError(f"{self._entry.name} cannot be attached to: {error}") from None
        self.kernels = tuple(kernels)
        self._said = {kernel: Transcript() for kernel in self.kernels}
        threading.Thread(target=self._read, name="attached", daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        with suppress(OSError):
            self._connection.close()

    def size(self, kernel: str) -> int:
        """Return how many bytes of the kernel's console came here."""
        return len(self._said[kernel])

    def read(self, kernel: str, start: int, end: int | None = None) -> bytes:
        """Return these bytes."""
        return self._said[kernel].read(start, end)

    def type(self, kernel: str, data: bytes) -> None:
        """Type on the kernel's console."""
        with suppress(HarnessError):
            self._send("type", kernel, data)

    def ask(self, question: Question, argument: str = "") -> str:
        """Return the answer as text. Raises HarnessError."""
        number, answer = next(self._number), Future[str]()
        self._asked[number] = answer
        self._send("ask", number, question, argument)
        try:
            return answer.result(PATIENCE)
        except TimeoutError:
            raise HarnessError(f"there was no answer to {question!r} in {PATIENCE:.0f} s") from None

    def state(self) -> str:
        """Say what the machine does."""
        return self._state

    def watch(self, changed: Callable[[], None]) -> None:
        """Call ``changed`` whenever something was printed."""
        self._changed.append(changed)

    def _send(self, *message: object) -> None:
        try:
            with self._lock:
                self._connection.send_bytes(msgspec.msgpack.encode(message))
        except (OSError, ValueError):
            raise HarnessError(GONE) from None

    def _receive(self) -> Any:
        return msgspec.msgpack.decode(self._connection.recv_bytes())

    def _read(self) -> None:
        try:
            while True:
                match self._receive():
                    case ["bytes", str(kernel), bytes(data)]:
                        self._said[kernel].append(data, time.monotonic())
                    case ["state", str(state)]:
                        self._state = state
                    case ["answer", int(number), bool(good), str(text)]:
                        answer = self._asked.pop(number)
                        answer.set_result(text) if good else answer.set_exception(HarnessError(text))
                self._tell()
        except (OSError, EOFError, ValueError, TypeError):
            self._state = GONE
            for answer in self._asked.values():
                answer.set_exception(HarnessError(GONE))
            self._tell()

    def _tell(self) -> None:
        for changed in self._changed:
            changed()
