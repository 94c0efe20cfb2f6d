# SPDX-License-Identifier: MIT
"""Whom a kernel can send to at all, and who is called for what comes."""

from __future__ import annotations

import time

import pytest

from harness.lab import Pair
from harness.multikernel import messaging
from harness.multikernel.messaging import hook, hooks
from harness.plugin import Seen, claim

TYPE = 0x5000


@claim(
    "a spawned kernel knows its host: a message there is not refused",
    source="known bug V2-10: a spawned kernel is told nothing of its host's area; interface sheet IP-P2",
)
@pytest.mark.needs("spawn")
def test_host(pair: Pair, seen: Seen) -> None:
    said = messaging.refusal(pair.spawned, pair.lab.dialect.to_host, b"are you there?")
    seen(said or "taken")
    assert not said, f"to {pair.lab.dialect.to_host}, its host: {said}"


@claim(
    "a handler is called for what it was registered for, and not for other messages",
    source="known bug V1-11: every handler gets every message; RFC v2 14/16: handlers of types",
)
@pytest.mark.needs("spawn", "messages")
def test_foreign_types(pair: Pair, seen: Seen) -> None:
    assert not hook(pair.host, f"on {TYPE:#x} 0")
    to = pair.lab.dialect.to_host
    messaging.send(pair.spawned, to, b"for others")
    messaging.wait_for(pair.host, b"for others")
    messaging.send(pair.spawned, to, b"for this one", type=TYPE)
    limit = time.monotonic() + 5.0 * pair.host.factor
    while not (found := hooks(pair.host)[TYPE, 0]).calls - found.others and time.monotonic() < limit:
        time.sleep(0.05)
    seen(f"{found.calls} calls, {found.others} of them for a message of another type")
    assert found.calls - found.others == 1, f"its own message did not come once: {found}"
    assert not found.others
