# SPDX-License-Identifier: MIT
"""Machines with two live kernels can be forked: what every other test here rests upon."""

import secrets
import subprocess
import sys
import time

import pytest

from harness.forks import Forks
from harness.lab import Lab
from harness.multikernel import messaging
from harness.progress import Progress
from harness.vm.ram import ram_of

pytestmark = pytest.mark.needs("spawn")


def exchange(lab: Lab) -> set[bytes]:
    """Send a message each way; return the two payloads."""
    pair, payloads = lab.pair(), [secrets.token_bytes(16) for _ in range(2)]
    messaging.send(pair.host, lab.dialect.to_spawned(pair.instance), payloads[0])
    messaging.send(pair.spawned, lab.dialect.to_host, payloads[1])
    messaging.wait_for(pair.spawned, payloads[0])
    messaging.wait_for(pair.host, payloads[1])
    return set(payloads)


def received(lab: Lab) -> set[bytes]:
    pair = lab.pair()
    return {message.payload for kernel in (pair.host, pair.spawned) for message in messaging.received(kernel)}


@pytest.mark.needs("messages")
def test_messages_in_two_forks_at_once(forks: Forks) -> None:
    progress = Progress()
    with forks.lab("spawned", progress) as one, forks.lab("spawned", progress) as other:
        ours, theirs = exchange(one), exchange(other)
        assert ours <= received(one)
        assert not received(one) & theirs, "a message went to another machine"
        assert not received(other) & ours, "a message went to another machine"


def test_what_is_wrecked_in_one_fork_lives_in_another(forks: Forks) -> None:
    progress = Progress()
    with forks.lab("spawned", progress) as wrecked, forks.lab("spawned", progress) as other:
        console = wrecked.pair().spawned.console
        console.send("echo c >/proc/sysrq-trigger\n")
        limit = time.monotonic() + 30 * wrecked.accel.factor
        while not console.saw("Kernel panic") and time.monotonic() < limit:
            time.sleep(0.05)
        assert console.saw("Kernel panic")
        assert other.pair().spawned.run("echo alive") == "alive"
        assert not other.pair().spawned.console.saw("Kernel panic")


READ = """
import sys
from pathlib import Path
from harness.vm.ram_server import RamClient
with RamClient(Path(sys.argv[1])) as ram:
    sys.stdout.buffer.write(ram.read(int(sys.argv[2]), 4096))
"""


def test_another_process_reads_the_memory_that_this_one_serves(forks: Forks) -> None:
    with forks.lab("spawned", Progress()) as lab:
        start = lab.pair().instance.ram.start
        lab.machine.freeze()
        served = lab.serve_memory()
        assert lab.serve_memory() == served
        read = subprocess.run(
            [sys.executable, "-c", READ, served, str(start)], capture_output=True, check=True
        ).stdout
        assert read == ram_of(lab.machine).read(start, 4096)
    assert not served.exists()
