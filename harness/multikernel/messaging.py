# SPDX-License-Identifier: MIT
"""Messages between kernels, sent and received by the guest module ``mkmsg``."""

from __future__ import annotations

import time
from dataclasses import dataclass

from harness.errors import HarnessError
from harness.multikernel.kernel import Kernel

SEND = "/proc/mkmsg/send"
RECEIVED = "/proc/mkmsg/received"
USER = 0x4000
"""Message type free for users. Source: RFC v2 14/16, MK_MSG_USER."""


@dataclass(frozen=True)
class Message:
    """One message as the receiving kernel's module recorded it.

    ``sender`` is what the series reports: an instance id, or a CPU number in v1.
    """

    sequence: int
    sender: int
    type: int
    subtype: int
    payload: bytes


def send(kernel: Kernel, destination: int, payload: bytes, *, type: int = USER) -> None:
    """Send one message; ``destination`` is an instance id, or a CPU number in v1.

    Raises HarnessError with the kernel's errno when the send is refused.
    """
    kernel.run(f"echo '{destination} {type:#x} {payload.hex()}' > {SEND}")


def received(kernel: Kernel) -> tuple[Message, ...]:
    """Return the messages that this kernel's module has recorded, oldest first."""
    return parse_received(kernel.read(RECEIVED))


def wait_for(kernel: Kernel, payload: bytes, *, timeout: float = 20.0) -> Message:
    """Wait until a message with this payload has arrived.

    Raises HarnessError that shows what arrived instead.
    """
    deadline = time.monotonic() + timeout * kernel.factor
    while True:
        messages = received(kernel)
        for message in messages:
            if message.payload == payload:
                return message
        if time.monotonic() > deadline:
            arrived = "\n".join(map(str, messages)) or "nothing at all"
            raise HarnessError(
                f"{kernel.name} has not received {payload.hex()} after {timeout:.0f} s",
                details=f"received: {arrived}",
            )
        time.sleep(0.05)


def parse_received(text: str) -> tuple[Message, ...]:
    """Read /proc/mkmsg/received: ``SEQUENCE SENDER TYPE SUBTYPE LENGTH HEX`` a line, after a header."""
    messages = []
    for line in text.splitlines():
        if "=" in line:
            continue
        sequence, sender, kind, subtype, length, *rest = line.split()
        payload = bytes.fromhex(rest[0]) if rest and rest[0] != "-" else b""
        if len(payload) != int(length, 0):
            raise HarnessError(
                f"the message module contradicts itself: length {length}, payload {payload.hex()!r}"
            )
        messages.append(Message(int(sequence, 0), int(sender, 0), int(kind, 0), int(subtype, 0), payload))
    return tuple(messages)
