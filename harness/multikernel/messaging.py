# SPDX-License-Identifier: MIT
"""Messages between kernels, sent and received by the guest module ``mkmsg``."""

from __future__ import annotations

import time
from dataclasses import dataclass

from harness.errors import HarnessError
from harness.multikernel.kernel import Kernel
from harness.vm.patience import Patience

SEND = "/proc/mkmsg/send"
RECEIVED = "/proc/mkmsg/received"
FLOOD = "/proc/mkmsg/flood"
HOOKS = "/proc/mkmsg/hooks"
USER = 0x4000
"""Message type free for users. Source: RFC v2 14/16, MK_MSG_USER."""
NUMBERED = 0x4002
"""The type of a flood's messages. Source: MKMSG_FLOOD in mkmsg.h."""


RECENT = 10
"""Messages that an error shows."""


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


@dataclass(frozen=True)
class Sent:
    """What became of a flood at its sender: messages ``taken``, ``refused``, and ``ns`` for all of them."""

    taken: int
    refused: int
    ns: int


@dataclass(frozen=True)
class Got:
    """What came of a flood at its receiver.

    Of ``count`` messages ``back`` had a number that was not beyond the one before, and ``torn`` were not
    as any was sent; ``missing`` are the numbers left out; ``ns`` is from the first to the last.
    """

    count: int
    missing: int
    back: int
    torn: int
    ns: int = 0

    @property
    def in_order(self) -> bool:
        """Whether all came once, whole and in their order, as far as the numbers go."""
        return not (self.missing or self.back or self.torn)


@dataclass(frozen=True)
class Hook:
    """A function registered as handler, or no more (``on``), and how often it was called.

    ``others`` were calls for another type, ``late`` those that began or ended when it was not
    registered any more; ``busy`` are at work. ``subtype`` and ``length`` are the last message's.
    """

    on: bool
    calls: int
    others: int
    late: int
    busy: int
    subtype: int
    length: int


def send(kernel: Kernel, destination: int, payload: bytes, *, type: int = USER, subtype: int = 0) -> None:
    """Send one message; ``destination`` is an instance id, or a CPU number in v1.

    Raises HarnessError with the kernel's errno when the send is refused.
    """
    kernel.run(_send_line(destination, payload, type, subtype))


def refusal(kernel: Kernel, destination: int, payload: bytes) -> str:
    """Try to send one message; return what the kernel says against it, empty when it takes it."""
    return _refusal(kernel, _send_line(destination, payload, USER, 0))


def _send_line(destination: int, payload: bytes, type: int, subtype: int) -> str:
    kind = f"{type:#x}:{subtype:#x}" if subtype else f"{type:#x}"
    return f"echo '{destination} {kind} {payload.hex()}' > {SEND}"


def _refusal(kernel: Kernel, line: str) -> str:
    result = kernel.channel.run(line)
    if not result.status:
        return ""
    return result.stderr.decode("utf-8", "replace").strip().rpartition(": ")[2]


def flood_line(destination: int, count: int, size: int, *, tag: int = 0, retry_ms: int = 30_000) -> str:
    """Return the shell command that sends ``count`` numbered messages of ``size`` bytes, 8 or more.

    One that finds no room is tried again for ``retry_ms``. ``tag``, 0 to 15, tells its sender.
    """
    return f"echo '{destination} {count} {size} {tag} {retry_ms}' > {FLOOD}"


def floods(kernel: Kernel) -> tuple[dict[int, Sent], dict[int, Got]]:
    """Return what this kernel's module sent and got of floods, by tag."""
    sent, got = {}, {}
    for line in kernel.read(FLOOD).splitlines():
        word, tag, *numbers = line.split()
        if word == "sent":
            sent[int(tag)] = Sent(*map(int, numbers))
        else:
            got[int(tag)] = Got(*map(int, numbers))
    return sent, got


def wait_for_flood(kernel: Kernel, tag: int, count: int, *, timeout: float = 20.0) -> Got:
    """Wait until ``count`` messages of a flood have come, or no more come; return what came."""
    deadline = time.monotonic() + timeout * kernel.factor
    while True:
        got = floods(kernel)[1].get(tag, Got(0, 0, 0, 0))
        if got.count >= count or time.monotonic() > deadline:
            return got
        time.sleep(0.05)


def hook(kernel: Kernel, command: str) -> str:
    """Register or unregister a handler, see mkmsg_hooks.c; return what the kernel says against it."""
    return _refusal(kernel, f"echo '{command}' > {HOOKS}")


def hooks(kernel: Kernel) -> dict[tuple[int, int], Hook]:
    """Return the handlers that ``hook`` registered, by type and number of the function."""
    return parse_hooks(kernel.read(HOOKS))


def parse_hooks(text: str) -> dict[tuple[int, int], Hook]:
    """Read /proc/mkmsg/hooks."""
    found = {}
    for line in text.splitlines():
        type, number, on, *rest = (int(word, 0) for word in line.split())
        found[type, number] = Hook(bool(on), *rest)
    return found


def counters(kernel: Kernel) -> dict[str, int]:
    """Return the numbers in /proc/mkmsg/stats."""
    pairs = (line.split("=", 1) for line in kernel.read("/proc/mkmsg/stats").splitlines())
    return {key: int(value) for key, value in pairs if key != "api"}


def received(kernel: Kernel) -> tuple[Message, ...]:
    """Return the messages that this kernel's module has recorded, oldest first."""
    return parse_received(kernel.read(RECEIVED))


def wait_for(kernel: Kernel, payload: bytes, *, timeout: float = 20.0) -> Message:
    """Wait until a message with this payload has arrived.

    Raises HarnessError that shows what arrived instead.
    """
    limit = timeout * kernel.factor
    patience = Patience(limit, f"the message {payload!r} to {kernel.name}", kernel.console.last_word)
    while True:
        messages = received(kernel)
        for message in messages:
            if message.payload == payload:
                return message
        if patience.over():
            arrived = list(map(str, messages[-RECENT:])) or ["nothing at all"]
            raise HarnessError(
                f"{kernel.name} has not received the message {payload!r} after {limit:.0f} s",
                details="\n".join(["It has received:", *arrived]),
                timed_out=True,
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
