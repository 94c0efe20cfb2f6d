# SPDX-License-Identifier: MIT
"""GDB's remote serial protocol over two pipes: packets with checksums, asked and answered.

Source: "Debugging with GDB", appendix E (Overview, Packets).
"""

from __future__ import annotations

import os
import re
import select
import time

from harness.errors import HarnessError

_PACKET = re.compile(rb"\$([^#]*)#([0-9a-fA-F]{2})")
_RUN = re.compile(rb"(.)\*(.)", re.DOTALL)
TRIES = 3


class GdbError(HarnessError):
    """QEMU's gdbstub refused, did not answer in time, or is gone."""


def checksum(body: bytes) -> int:
    """Return the sum of a packet's bytes, modulo 256."""
    return sum(body) & 0xFF


def packet(body: bytes) -> bytes:
    """Return ``body`` framed. Raises ValueError when it has bytes that would need escapes."""
    if re.search(rb"[$#}*]", body):
        raise ValueError(f"{body!r} cannot be sent unescaped")
    return b"$%b#%02x" % (body, checksum(body))


def expand(body: bytes) -> bytes:
    """Undo run lengths: ``0* `` is four zeros (the count's character is its value plus 29)."""
    return _RUN.sub(lambda run: run[1] * (run[2][0] - 28), body)


class Packets:
    """Sends to descriptor ``sink`` and receives from ``source``; closes neither.

    All time-outs are in seconds.
    """

    def __init__(self, source: int, sink: int) -> None:
        self._source = source
        self._sink = sink
        self._received = bytearray()

    def ask(self, body: str, timeout: float = 10.0) -> str:
        """Send a packet and return the answer. Raises GdbError."""
        self.send(body)
        return self.receive(timeout, body)

    def send(self, body: str) -> None:
        """Send a packet that is answered later, if ever. Raises GdbError."""
        self._write(packet(body.encode("ascii")))

    def interrupt(self) -> None:
        """Ask for a stop, which is answered by a stop reply. Raises GdbError."""
        self._write(b"\x03")

    def receive(self, timeout: float, what: str = "a stop reply") -> str:
        """Return the next packet. Raises GdbError after ``timeout`` or three damaged ones."""
        limit = time.monotonic() + timeout
        damaged = 0
        while True:
            match = _PACKET.search(bytes(self._received))
            if match is None:
                self._read(limit, what)
                continue
            body, told = bytes(match[1]), int(match[2], 16)
            del self._received[: match.end()]
            if checksum(body) == told:
                self._write(b"+")
                return expand(body).decode("ascii", "backslashreplace")
            damaged += 1
            if damaged == TRIES:
                raise GdbError(f"the gdbstub's answers to {what!r} are damaged")
            self._write(b"-")

    def _read(self, limit: float, what: str) -> None:
        left = max(0.0, limit - time.monotonic())
        if not select.select([self._source], [], [], left)[0]:
            raise GdbError(f"the gdbstub did not answer {what!r} in time", timed_out=True)
        data = os.read(self._source, 1 << 16)
        if not data:
            raise GdbError(f"the gdbstub is gone; awaited was the answer to {what!r}")
        self._received += data

    def _write(self, data: bytes) -> None:
        try:
            os.write(self._sink, data)
        except OSError as error:
            raise GdbError(f"the gdbstub is gone: {error.strerror}") from None
