# SPDX-License-Identifier: MIT
"""One thread per serial line that always reads.

An unread line stalls the guest in the middle of a word, so nobody's waiting decides when a line
is read. What comes is handed to subscribers with the host's time; what goes out waits in a buffer,
so that writing never blocks either.
"""

from __future__ import annotations

import array
import contextlib
import fcntl
import os
import select
import socket
import termios
import threading
import time
from collections.abc import Callable
from typing import Protocol

Subscriber = Callable[[bytes, float], None]
"""Called with the bytes and the host's monotonic time in seconds; empty bytes mean the end."""


class End(Protocol):
    """One end of a pipe or a socket."""

    def fileno(self) -> int:
        """Return its descriptor."""

    def close(self) -> None:
        """Close it."""


class Pump:
    """Reads ``source`` until it ends, in a thread of its own, and writes to ``sink``.

    Both may be one socket. They belong to the pump from now on.
    """

    def __init__(self, source: End, sink: End, name: str) -> None:
        self.name = name
        self._source = source
        self._sink = sink
        for end in (source, sink):
            os.set_blocking(end.fileno(), False)
        self._wake_read, self._wake_write = socket.socketpair()
        self._outgoing = bytearray()
        self._lock = threading.Lock()
        self._subscribers: list[Subscriber] = []
        self._stop = False
        self.ended = False
        self._publishing = False
        self._thread = threading.Thread(target=self._run, name=f"pump {name}", daemon=True)

    def start(self) -> None:
        """Begin to read. Whoever subscribed before misses nothing."""
        self._thread.start()

    def subscribe(self, subscriber: Subscriber) -> Callable[[], None]:
        """Call ``subscriber`` in the pump's thread with everything from now on; it must not block.

        Returns a function that ends the subscription.
        """
        with self._lock:
            self._subscribers.append(subscriber)

        def unsubscribe() -> None:
            with self._lock, contextlib.suppress(ValueError):
                self._subscribers.remove(subscriber)

        return unsubscribe

    def write(self, data: bytes) -> None:
        """Send bytes, in order, as fast as the guest takes them. Never blocks."""
        with self._lock:
            self._outgoing += data
        with contextlib.suppress(OSError):
            self._wake_write.send(b"\0")

    def unsent(self) -> int:
        """Return how much the guest's port has not taken yet; more than 0 when there is some.

        What is in a socket counts with the kernel's overhead, so the number is no byte count.
        """
        with self._lock:
            if self._stop or self.ended:
                return len(self._outgoing)
            try:
                waiting = _queued(self._sink, termios.TIOCOUTQ)
            except OSError:
                # A pipe is no socket: what is in it can be read.
                waiting = _queued(self._sink, termios.FIONREAD)
            return len(self._outgoing) + waiting

    def drain(self, timeout: float = 5.0) -> None:
        """Wait until all that has come was read and handed on, at most ``timeout`` seconds."""
        give_up = time.monotonic() + timeout
        while time.monotonic() < give_up:
            with self._lock:
                if self.ended or self._stop:
                    return
                if not _queued(self._source, termios.FIONREAD) and not self._publishing:
                    return
            time.sleep(0.002)

    def close(self) -> None:
        """End the thread and close the socket, after reading what has already come."""
        with self._lock:
            self._stop = True
        with contextlib.suppress(OSError):
            self._wake_write.send(b"\0")
        if self._thread.is_alive() and self._thread is not threading.current_thread():
            self._thread.join()
        for end in (self._source, self._sink, self._wake_read, self._wake_write):
            end.close()

    def _run(self) -> None:
        source, sink, wake = self._source.fileno(), self._sink.fileno(), self._wake_read.fileno()
        while not self.ended:
            with self._lock:
                wanted = {wake: select.POLLIN, source: select.POLLIN}
                if self._outgoing and not self._stop:
                    wanted[sink] = wanted.get(sink, 0) | select.POLLOUT
                stop = self._stop
            poll = select.poll()
            for fd, events in wanted.items():
                poll.register(fd, events)
            ready = dict(poll.poll(0 if stop else None))
            if wake in ready:
                self._wake_read.recv(4096)
            if ready.get(source, 0) & ~select.POLLOUT:
                self._read()
            elif stop:
                break
            if sink in wanted and sink in ready:
                self._flush()
        if not self.ended:
            self._publish(b"")

    def _read(self) -> None:
        with self._lock:
            try:
                data = os.read(self._source.fileno(), 65536)
            except BlockingIOError:
                return
            except OSError:
                # QEMU went away with bytes of ours unread.
                data = b""
            self._publishing = True
        self.ended = not data
        self._publish(data)
        self._publishing = False

    def _flush(self) -> None:
        with self._lock, contextlib.suppress(BlockingIOError):
            try:
                del self._outgoing[: os.write(self._sink.fileno(), self._outgoing)]
            except (BrokenPipeError, ConnectionError):
                self._outgoing.clear()

    def _publish(self, data: bytes) -> None:
        now = time.monotonic()
        with self._lock:
            subscribers = tuple(self._subscribers)
        for subscriber in subscribers:
            subscriber(data, now)


def _queued(end: End, question: int) -> int:
    """Return how many bytes wait in a pipe or a socket; ``question`` is FIONREAD or TIOCOUTQ."""
    count = array.array("i", [0])
    fcntl.ioctl(end.fileno(), question, count)
    return count[0]
