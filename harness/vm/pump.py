# SPDX-License-Identifier: MIT
"""One thread per serial line that always reads.

An unread socket stalls the guest in the middle of a word, so nobody's waiting decides when a line
is read. What comes is handed to subscribers with the host's time; what goes out waits in a buffer,
so that writing never blocks either.
"""

from __future__ import annotations

import array
import contextlib
import fcntl
import selectors
import socket
import termios
import threading
import time
from collections.abc import Callable

Subscriber = Callable[[bytes, float], None]
"""Called with the bytes and the host's monotonic time in seconds; empty bytes mean the end."""


class Pump:
    """Reads one socket until it ends, in a thread of its own."""

    def __init__(self, sock: socket.socket, name: str) -> None:
        self.name = name
        self._sock = sock
        self._sock.setblocking(False)
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

        What is in the socket counts with the kernel's overhead, so the number is no byte count.
        """
        waiting = array.array("i", [0])
        with self._lock:
            if self._stop or self.ended:
                return len(self._outgoing)
            fcntl.ioctl(self._sock.fileno(), termios.TIOCOUTQ, waiting)
            return len(self._outgoing) + waiting[0]

    def drain(self, timeout: float = 1.0) -> None:
        """Wait until all that has come was read and handed on, at most ``timeout`` seconds."""
        waiting = array.array("i", [0])
        give_up = time.monotonic() + timeout
        while time.monotonic() < give_up:
            with self._lock:
                if self.ended or self._stop:
                    return
                fcntl.ioctl(self._sock.fileno(), termios.FIONREAD, waiting)
                if not waiting[0] and not self._publishing:
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
        for sock in (self._sock, self._wake_read, self._wake_write):
            sock.close()

    def _run(self) -> None:
        with selectors.DefaultSelector() as selector:
            selector.register(self._wake_read, selectors.EVENT_READ)
            selector.register(self._sock, selectors.EVENT_READ)
            while not self.ended:
                with self._lock:
                    events = selectors.EVENT_READ | (selectors.EVENT_WRITE if self._outgoing else 0)
                    stop = self._stop
                selector.modify(self._sock, events)
                ready = {key.fileobj: mask for key, mask in selector.select(0 if stop else None)}
                if self._wake_read in ready:
                    self._wake_read.recv(4096)
                mask = ready.get(self._sock, 0)
                if mask & selectors.EVENT_READ:
                    self._read()
                elif stop:
                    break
                if mask & selectors.EVENT_WRITE and not stop:
                    self._flush()
        if not self.ended:
            self._publish(b"")

    def _read(self) -> None:
        with self._lock:
            try:
                data = self._sock.recv(65536)
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
        with self._lock, contextlib.suppress(OSError):
            del self._outgoing[: self._sock.send(self._outgoing)]

    def _publish(self, data: bytes) -> None:
        now = time.monotonic()
        with self._lock:
            subscribers = tuple(self._subscribers)
        for subscriber in subscribers:
            subscriber(data, now)
