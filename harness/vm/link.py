# SPDX-License-Identifier: MIT
"""A reliable, ordered link of small frames over a line that may lose or add bytes.

The other end is ``initramfs/agent/link.c``; its header says what a frame looks like on the wire.
Go-back-N with a window: what is sent is kept until it was acknowledged and sent again after a
time-out, so that it arrives once and in order or the caller is told that it did not.
"""

from __future__ import annotations

import struct
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from enum import IntEnum

PROTOCOL_VERSION = 1
PAYLOAD_MAX = 512
WINDOW = 16
"""Frames under way unacknowledged: 8 KiB fit into a tty's buffers where nobody reads for a while."""

RESEND = 0.5
RESEND_MAX = 4.0
"""Seconds after which unacknowledged frames are sent again, at first and at most."""

FLAG, ESCAPE = b"\x7e", b"\x7d"
HEADER = struct.Struct("<BHHI")
BODY_MIN = HEADER.size + 4
BODY_MAX = BODY_MIN + PAYLOAD_MAX


class Type(IntEnum):
    """What a frame is for; those below TEXT have no place in the sequence."""

    HELLO = 1
    WELCOME = 2
    ACK = 3
    NAK = 4
    NO_SESSION = 5
    TEXT = 16
    RUN = 17
    KILL = 18
    PUT = 19
    DATA = 20
    CLOSE = 21
    GET = 22
    STDOUT = 32
    STDERR = 33
    EXIT = 34


@dataclass(frozen=True)
class Frame:
    """One frame; ``id`` is the command's number, or the session's in HELLO and WELCOME."""

    type: Type
    id: int = 0
    payload: bytes = b""
    sequence: int = 0
    acknowledged: int = 0

    def encode(self) -> bytes:
        """Return the frame as it goes over the line."""
        body = HEADER.pack(self.type, self.sequence, self.acknowledged, self.id) + self.payload
        body += zlib.crc32(body).to_bytes(4, "little")
        return FLAG + body.replace(ESCAPE, b"\x7d\x5d").replace(FLAG, b"\x7d\x5e") + FLAG


class Decoder:
    """Finds frames in a stream of bytes, cut anywhere, with noise before and between them."""

    def __init__(self) -> None:
        self._rest = b""
        self.damaged = 0
        """Stretches between two flags that were no frame."""

    def feed(self, data: bytes) -> Iterator[Frame]:
        """Take the next bytes and yield the frames that they complete."""
        *bodies, rest = (self._rest + data).split(FLAG)
        # Noise without a flag may be endless; what is longer than any frame is noise already.
        self._rest = rest if len(rest) <= 2 * BODY_MAX else rest[: 2 * BODY_MAX + 1]
        for escaped in bodies:
            body = escaped.replace(b"\x7d\x5e", FLAG).replace(b"\x7d\x5d", ESCAPE)
            frame = self._frame(body)
            if frame is not None:
                yield frame
            elif body:
                self.damaged += 1

    @staticmethod
    def _frame(body: bytes) -> Frame | None:
        if not BODY_MIN <= len(body) <= BODY_MAX:
            return None
        if zlib.crc32(body[:-4]) != int.from_bytes(body[-4:], "little"):
            return None
        kind, sequence, acknowledged, number = HEADER.unpack_from(body)
        try:
            return Frame(Type(kind), number, body[HEADER.size : -4], sequence, acknowledged)
        except ValueError:
            return None


class Link:
    """The harness's end of one line to an agent.

    ``write`` sends bytes without blocking; ``unsent`` says how many of them the other side has
    not taken yet; ``deliver`` gets every frame once and in order. ``feed`` may be called by
    another thread than the rest. ``changed`` is notified whenever something happened.
    """

    def __init__(
        self, write: Callable[[bytes], None], unsent: Callable[[], int], deliver: Callable[[Frame], None]
    ) -> None:
        self._write = write
        self._unsent = unsent
        self._deliver = deliver
        self.changed = threading.Condition(threading.RLock())
        self.decoder = Decoder()
        self.session = 0
        """The session that the agent has agreed to, or 0."""
        self.greeting = b""
        self._nonce = 0
        self._expected = 0
        self._window: list[Frame] = []
        self._next = 0
        self._nak_sent = False
        self._interval = RESEND
        self._resend_at = 0.0
        self.resent = 0

    def hello(self, nonce: int) -> None:
        """Ask the agent to begin session ``nonce``; ``session`` is set when it has agreed."""
        with self.changed:
            self._nonce, self.session = nonce, 0
            self._window.clear()
            self._expected = self._next = 0
            self._nak_sent = False
            # Nobody listens yet: what waits in the socket is as good as one sent now.
            if not self._unsent():
                self._write(Frame(Type.HELLO, nonce).encode())

    @property
    def room(self) -> bool:
        """Whether ``send`` may be called now."""
        return bool(self.session) and len(self._window) < WINDOW

    @property
    def waiting(self) -> bool:
        """Whether frames have been sent that the agent has not acknowledged."""
        return bool(self._window)

    def send(self, kind: Type, number: int, payload: bytes = b"") -> None:
        """Send one frame for the command ``number``. Only while there is ``room``."""
        with self.changed:
            assert self.room, "the window is full"
            frame = Frame(kind, number, payload, self._next)
            if not self._window:
                self._restart(RESEND)
            self._window.append(frame)
            self._next = (self._next + 1) & 0xFFFF
            self._transmit(frame)

    def tick(self) -> None:
        """Send again what is overdue. Call it often while waiting for something."""
        with self.changed:
            if not self._window or time.monotonic() < self._resend_at:
                return
            # What was not taken yet is not lost: the guest may be slow, or stopped.
            if self._unsent():
                self._restart(self._interval)
            else:
                self._resend()
                self._restart(min(2 * self._interval, RESEND_MAX))

    def feed(self, data: bytes) -> None:
        """Take bytes that came over the line."""
        with self.changed:
            damaged, ack_due, nak_due = self.decoder.damaged, False, False
            for frame in self.decoder.feed(data):
                if frame.type is Type.WELCOME:
                    self._welcome(frame)
                elif frame.type is Type.NO_SESSION:
                    self.session = 0
                elif self.session:
                    self._acknowledged(frame.acknowledged)
                    if frame.type is Type.NAK:
                        self._resend()
                    elif frame.type >= Type.TEXT:
                        ack_due = True
                        nak_due |= not self._take(frame)
            nak_due |= self.decoder.damaged > damaged
            if self.session and nak_due and not self._nak_sent:
                self._nak_sent = True
                self._transmit(Frame(Type.NAK))
            elif self.session and ack_due:
                self._transmit(Frame(Type.ACK))
            self.changed.notify_all()

    def _welcome(self, frame: Frame) -> None:
        # Another session's welcome is from before; a second one for this is an answer to a repetition.
        if frame.id == self._nonce and not self.session:
            self.session, self.greeting = frame.id, frame.payload

    def _take(self, frame: Frame) -> bool:
        """Deliver a frame when it is its turn; False when one before it is missing."""
        ahead = (frame.sequence - self._expected) & 0xFFFF
        if ahead:
            return ahead >= 0x8000
        self._expected = (self._expected + 1) & 0xFFFF
        self._nak_sent = False
        self._deliver(frame)
        return True

    def _acknowledged(self, until: int) -> None:
        if not self._window:
            return
        count = (until - self._window[0].sequence) & 0xFFFF
        if 0 < count <= len(self._window):
            del self._window[:count]
            self._restart(RESEND)

    def _resend(self) -> None:
        self.resent += len(self._window)
        for frame in self._window:
            self._transmit(frame)

    def _restart(self, interval: float) -> None:
        self._interval = interval
        self._resend_at = time.monotonic() + interval

    def _transmit(self, frame: Frame) -> None:
        self._write(replace(frame, acknowledged=self._expected).encode())
