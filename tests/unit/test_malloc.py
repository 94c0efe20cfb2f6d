# SPDX-License-Identifier: MIT
"""A process of the suite takes no more memory than it uses."""

from __future__ import annotations

import subprocess
import sys

import pytest

PROGRAM = """
import sys
from harness.malloc import give_back

def taken():
    lines = open("/proc/self/status").read().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("RssAnon")) >> 10

if "give back" in sys.argv:
    give_back()
before = taken()
for _ in range(2):
    # The first round is what the C library learns from; small pieces lie between the large ones.
    kept = [(bytearray(4 << 20), bytes(200_000)) for _ in range(20)]
    kept = [small for _, small in kept]
print(taken() - before)
"""


def left(*words: str) -> int:
    """Return how many MiB a process keeps of 80 that it has freed twice."""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, *words], capture_output=True, text=True, check=True, timeout=60
    )
    return int(done.stdout)


def test_what_is_freed_goes_back() -> None:
    if left() < 40:
        pytest.skip("this C library keeps nothing anyway")
    assert left("give back") < 20
