# SPDX-License-Identifier: MIT
"""Another kernel takes the host's place by kexec, while spawned kernels run beside it.

replace_host(lab)

or step by step, where something is to happen while there is no host: ``load``, ``jump``, ``await_host``.
"""

from __future__ import annotations

import re
import time
from dataclasses import dataclass

from harness import kexec
from harness.errors import HarnessError
from harness.lab import BOOT_TIMEOUT, Lab, Pair
from harness.multikernel.dialect import Image
from harness.multikernel.interface import Interface
from harness.multikernel.kernel import WATCHED_PACE_MS
from harness.multikernel.layout import HOST
from harness.vm.console import printed

WITHOUT_KHO = "kho=off"
"""Neither hands over nor takes what was. Source: Documentation/admin-guide/kernel-parameters.txt."""
BEGINS = "Linux version"
JUMP_LIMIT = 20.0
"""Seconds from the call to the successor's first line, before scaling by the accelerator."""


@dataclass(frozen=True)
class Moments:
    """When a kernel was replaced, by time.monotonic(): the call, the successor's first line, and up."""

    left: float
    begins: float
    up: float


def load(lab: Lab, *, told: bool = True) -> None:
    """Load the host's own kernel as its successor, with its own command line.

    Where the dialect has words for it, the successor is ``told`` that kernels run beside it; one that
    gets something by KHO knows it anyway. Raises HarnessError when the host refuses.
    """
    words = lab.dialect.takeover
    kexec.load(lab, initrd=kexec.pack_for_more(lab), change=dict.fromkeys(words, "" if told else None))


def jump(lab: Lab) -> None:
    """Start what was loaded in the host's place; return when it prints its first line."""
    kexec.go(lab)
    lab.host.console.expect(BEGINS, timeout=JUMP_LIMIT)


def await_host(lab: Lab) -> None:
    """Wait until the successor's user space is up and its heartbeat runs; it is the lab's host then."""
    kexec.await_successor(lab)
    lab.host.start_heartbeat(WATCHED_PACE_MS)
    lab.replaced(HOST)


def replace_host(lab: Lab, *, told: bool = True) -> Moments:
    """Replace the host kernel by itself, booted anew. Raises HarnessError when it does not come up."""
    before = lab.host.read("/proc/sys/kernel/random/boot_id")
    load(lab, told=told)
    left = time.monotonic()
    jump(lab)
    begins = time.monotonic()
    await_host(lab)
    if lab.host.read("/proc/sys/kernel/random/boot_id") == before:
        raise HarnessError("the host was not replaced: it is the same kernel as before")
    return Moments(left, begins, time.monotonic())


def replace_spawned(pair: Pair, mk: Interface, image: Image | None = None) -> Moments:
    """Stop a spawned Linux, load ``image`` (None: its own) and start that. Raises HarnessError."""
    lab, spawned = pair.lab, pair.spawned
    left = time.monotonic()
    mk.halt(pair.instance.id).require()
    lab.dialect.load(lab.host, pair.instance, image or lab.dialect.linux, " ".join(pair.arguments))
    lab.dialect.start(lab.host, pair.instance)
    spawned.console.expect(BEGINS, timeout=BOOT_TIMEOUT)
    begins = time.monotonic()
    lab.await_user_space(spawned)
    spawned.start_heartbeat(WATCHED_PACE_MS)
    lab.replaced(spawned.name)
    return Moments(left, begins, time.monotonic())


def boot_again(pair: Pair) -> None:
    """Load and start a spawned Linux that ended once more, and wait until it answers. Raises HarnessError."""
    lab, console = pair.lab, pair.spawned.console
    console.renew()
    began = console.mark
    lab.dialect.load(pair.host, pair.instance, lab.dialect.linux, " ".join(pair.arguments))
    lab.dialect.start(pair.host, pair.instance)
    up = re.compile(printed(f"user space is up on {pair.spawned.name}"))
    limit = time.monotonic() + BOOT_TIMEOUT * lab.accel.factor
    # Not sooner: what is sent to a line that nobody reads yet may be lost, and the agent with it.
    while not up.search(console.transcript[began:].decode(errors="replace")):
        if time.monotonic() > limit:
            raise HarnessError(f"{pair.spawned.name} does not come up again", details=console.tail())
        time.sleep(0.05)
    pair.spawned.channel.wait_ready(timeout=BOOT_TIMEOUT)
