# SPDX-License-Identifier: MIT
"""A machine of this process shown in other terminals: `mkh console --attach NAME`.

Each machine has a socket in this process's scratch folder, which only this user can enter, and an entry
in the cache that says where. Messages are lists in msgpack: ``hello`` with title, kernels and whether a
test waits; ``bytes`` of a kernel; ``state``; ``answer`` with the question's number and a text. The
other side sends ``type`` with a kernel and bytes, and ``ask`` with a number, a question and an argument.
"""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from multiprocessing.connection import Connection, Listener
from pathlib import Path
from typing import Self

import msgspec

from harness import paths, process
from harness.errors import HarnessError
from harness.tui.source import RECENT, LabSource

PIECE = 64 << 10
"""Bytes of a console in one message."""
BEHIND = 1 << 20
"""A view that is so many bytes behind misses what is between."""
PAUSE = 0.02
"""Seconds between two messages of what was printed."""


class Entry(msgspec.Struct, frozen=True):
    """A machine that can be attached to: its process, its socket, what it is, when it began to wait."""

    name: str
    pid: int
    socket: str
    title: str
    since: float
    waits: bool = False

    @property
    def alive(self) -> bool:
        """Whether it is there."""
        return Path(self.socket).exists()


def folder() -> Path:
    """Return the folder of all entries."""
    return paths.cache() / "machines"


def entries() -> list[Entry]:
    """Return the machines that can be attached to, the oldest first; what dead ones left is removed."""
    found = []
    for file in folder().glob("*.json"):
        with suppress(OSError, msgspec.MsgspecError):
            entry = msgspec.json.decode(file.read_bytes(), type=Entry)
            if entry.alive:
                found.append(entry)
            else:
                file.unlink()
    return sorted(found, key=lambda entry: entry.since)


class Served:
    """Serves ``source`` under ``name`` while the ``with`` block lasts; ``waits`` says that a test waits."""

    def __init__(self, source: LabSource, name: str, *, waits: bool = False) -> None:
        self._source = source
        source.name = name
        self._waits = waits
        path = process.scratch() / f"console-{name}"
        self.entry = Entry(name, os.getpid(), str(path), source.title, time.time(), waits)
        self._clients: set[_Client] = set()
        self._pool = ThreadPoolExecutor(2, "answers")
        self._ended = False

    def __enter__(self) -> Self:
        try:
            self._listener = Listener(self.entry.socket, "AF_UNIX")
        except OSError as error:
            raise HarnessError(
                f"nobody can attach: {self.entry.socket}: {error}", advice="TMPDIR=/tmp gives a shorter path"
            ) from None
        threading.Thread(target=self._accept, name="attaching", daemon=True).start()
        try:
            folder().mkdir(parents=True, exist_ok=True)
            (folder() / f"{self.entry.name}.json").write_bytes(msgspec.json.encode(self.entry))
        except OSError as error:
            raise HarnessError(
                f"{folder()} cannot be written: {error.strerror}",
                advice="MKHARNESS_CACHE names another cache folder",
            ) from None
        return self

    def __exit__(self, *_: object) -> None:
        self._ended = True
        with suppress(OSError):
            (folder() / f"{self.entry.name}.json").unlink()
        with suppress(OSError):
            self._listener.close()
        # Whoever said how to go on is to hear that it was understood.
        self._pool.shutdown(wait=True, cancel_futures=True)
        for client in tuple(self._clients):
            client.close()

    def _accept(self) -> None:
        while not self._ended:
            try:
                connection = self._listener.accept()
            except (OSError, EOFError):
                continue
            client = _Client(connection, self._source, self._pool, self._clients.discard)
            self._clients.add(client)
            client.start(self._waits)


class _Client:
    """One view elsewhere."""

    def __init__(
        self,
        connection: Connection[bytes, bytes],
        source: LabSource,
        pool: ThreadPoolExecutor,
        gone: Callable[[_Client], None],
    ) -> None:
        self._connection, self._source, self._pool, self._gone = connection, source, pool, gone
        self._lock = threading.Lock()
        self._closed = False
        self._sent = {kernel: max(0, source.size(kernel) - RECENT) for kernel in source.kernels}

    def start(self, waits: bool) -> None:
        self._send("hello", self._source.title, self._source.kernels, waits)
        threading.Thread(target=self._read, name="attached", daemon=True).start()
        threading.Thread(target=self._write, name="attached", daemon=True).start()

    def close(self) -> None:
        self._gone(self)
        if self._closed:
            return
        self._closed = True
        # A thread that reads keeps a descriptor open that is only closed.
        with suppress(OSError), socket.socket(fileno=os.dup(self._connection.fileno())) as end:
            end.shutdown(socket.SHUT_RDWR)

    def _send(self, *message: object) -> None:
        try:
            with self._lock:
                self._connection.send_bytes(msgspec.msgpack.encode(message))
        except (OSError, ValueError):
            self.close()

    def _write(self) -> None:
        """Send what the kernels print, as fast as it is taken."""
        state = ""
        while not self._closed:
            for kernel, sent in self._sent.items():
                end = self._source.size(kernel)
                if end > sent:
                    start = max(sent, end - BEHIND)
                    data = self._source.read(kernel, start, min(end, start + PIECE))
                    self._sent[kernel] = start + len(data)
                    self._send("bytes", kernel, data)
            now = self._source.state()
            if now != state:
                state = now
                self._send("state", state)
            time.sleep(PAUSE)

    def _read(self) -> None:
        try:
            while not self._closed:
                match msgspec.msgpack.decode(self._connection.recv_bytes()):
                    case ["type", str(kernel), bytes(data)] if kernel in self._source.kernels:
                        self._source.type(kernel, data)
                    case ["ask", int(number), str(question), str(argument)]:
                        self._pool.submit(self._answer, number, question, argument)
        except (OSError, EOFError, ValueError, RuntimeError, TypeError):
            self.close()
        finally:
            self._connection.close()

    def _answer(self, number: int, question: str, argument: str) -> None:
        try:
            answer = self._source.ask(question, argument)  # type: ignore[arg-type]
            self._send("answer", number, True, answer)
        except HarnessError as error:
            self._send("answer", number, False, str(error))
