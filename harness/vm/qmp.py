# SPDX-License-Identifier: MIT
"""QEMU's control protocol: qemu.qmp's asyncio in one background thread, called synchronously."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import functools
import logging
import socket
import threading
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from qemu.qmp import QMPClient, QMPError

from harness.errors import HarnessError

T = TypeVar("T")
TIMEOUT = 30.0
"""Seconds for QEMU's main loop to answer; it does so in milliseconds, even under load."""

# A QEMU that ends is reported by Machine; qemu.qmp would print a traceback about it.
logging.getLogger("qemu.qmp").addHandler(logging.NullHandler())


class QmpError(HarnessError):
    """A command that QEMU refused or did not answer."""


@functools.cache
def _loop() -> asyncio.AbstractEventLoop:
    """Return the event loop of all connections, run by one thread for the life of the process."""
    loop = asyncio.new_event_loop()
    threading.Thread(target=loop.run_forever, name="qmp", daemon=True).start()
    return loop


class Qmp:
    """One connection to one QEMU.

    Every event is appended to ``events``, then given to ``on_event`` in a thread of this
    connection's own, one after another.
    """

    def __init__(self, name: str, on_event: Callable[[dict[str, Any]], None] = lambda event: None) -> None:
        self.events: list[dict[str, Any]] = []
        self._name = name
        self._on_event = on_event
        self._client = QMPClient(name)
        self._listener: asyncio.Task[None] | None = None

    def connect(self, sock: socket.socket, timeout: float = TIMEOUT) -> None:
        """Greet QEMU over a connected socket. Raises QmpError."""
        self._call(self._connect(sock), "greeting", timeout)

    def execute(self, command: str, timeout: float = TIMEOUT, **arguments: Any) -> Any:
        """Execute a command and return its value; ``_`` in arguments' names stands for ``-``.

        Raises QmpError when QEMU refuses, has ended, or takes longer than ``timeout`` seconds.
        """
        named = {name.replace("_", "-"): value for name, value in arguments.items()}
        return self._call(self._client.execute(command, named or None), command, timeout)

    def close(self) -> None:
        """End the connection. Never raises."""
        with contextlib.suppress(QmpError):
            self._call(self._close(), "disconnect", 5.0)

    async def _connect(self, sock: socket.socket) -> None:
        self._listener = asyncio.create_task(self._listen())
        await self._client.connect(sock)

    async def _listen(self) -> None:
        # The handler may wait for consoles; nobody else's events must wait with it.
        pool = concurrent.futures.ThreadPoolExecutor(1, f"qmp events {self._name}")
        try:
            async for message in self._client.events:
                event = dict(message)
                self.events.append(event)
                await asyncio.get_running_loop().run_in_executor(pool, self._on_event, event)
        finally:
            # This thread serves every machine and must not wait for one's handler.
            pool.shutdown(wait=False)

    async def _close(self) -> None:
        if self._listener is not None:
            self._listener.cancel()
        # Disconnecting reports why the connection ended before; that is known by now.
        with contextlib.suppress(QMPError, EOFError, OSError):
            await self._client.disconnect()

    def _call(self, coroutine: Coroutine[Any, Any, T], what: str, timeout: float) -> T:
        future = asyncio.run_coroutine_threadsafe(coroutine, _loop())
        try:
            return future.result(timeout)
        except concurrent.futures.TimeoutError:
            future.cancel()
            what = f"QEMU did not answer {what!r} in {timeout:.0f} s"
            raise QmpError(what, timed_out=True) from None
        except (QMPError, EOFError, OSError) as error:
            raise QmpError(f"QEMU refused {what!r}: {error}") from error
