# SPDX-License-Identifier: MIT
"""Consoles on a socket pair: what a guest would print is written by the test."""

from __future__ import annotations

import re
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.vm.console import Console, Ended, TimedOut, Trouble
from harness.vm.pump import Pump

PANIC = (
    b"[    4.1] sysrq: Trigger a crash\r\n"
    b"[    4.2] Kernel panic - not syncing: sysrq triggered crash\r\n"
    b"[    4.3] CPU: 1 UID: 0 PID: 123 Comm: sh\r\n"
    b"[    4.4] ---[ end Kernel panic ]---\r\n"
)


@dataclass
class Guest:
    """The other end of a console's line."""

    sock: socket.socket
    console: Console
    pump: Pump
    cause: list[str] = field(default_factory=list)

    def prints(self, data: bytes) -> None:
        self.sock.sendall(data)

    def settled(self) -> Console:
        self.pump.drain(5)
        return self.console

    def close(self) -> None:
        self.sock.close()
        self.pump.close()


def make_guest(factor: float = 1.0) -> Guest:
    near, far = socket.socketpair()
    pump = Pump(near, near, "alpha")
    cause: list[str] = []
    console = Console(pump, ended=lambda: cause[0] if cause else None, factor=factor)
    pump.start()
    return Guest(far, console, pump, cause)


@pytest.fixture
def guest() -> Iterator[Guest]:
    made = make_guest()
    yield made
    made.close()


def later(seconds: float, act: Callable[[], object]) -> None:
    threading.Timer(seconds, act).start()


def test_waits_move_forward_and_the_transcript_stays(guest: Guest) -> None:
    guest.prints(b"Linux version 7.3.4\r\nmkh: user space is up on alpha, 7.3.4, 1 CPUs\r\n")
    assert guest.console.expect(r"Linux version (\S+)")[1] == "7.3.4"
    assert guest.console.expect(r"up on (\w+)")[1] == "alpha"
    with pytest.raises(TimedOut):
        guest.console.expect("Linux version", timeout=0.05)
    assert guest.console.saw("Linux version")
    assert not guest.console.saw("Linux version 8")


def test_a_pattern_may_come_in_pieces_and_late(guest: Guest) -> None:
    guest.prints(b"log")
    later(0.05, lambda: guest.prints(b"in: "))
    assert guest.console.expect("login: ", timeout=5)


def test_a_time_out_says_what_was_awaited_and_shows_the_console(guest: Guest) -> None:
    guest.prints("\x1b[31mno init found\x9b2J\r\n".encode())
    guest.settled()
    with pytest.raises(TimedOut) as caught:
        guest.console.expect("user space", timeout=0.05)
    assert "alpha: 'user space' did not come" in str(caught.value)
    assert "\nno init found" in str(caught.value)
    assert not {"\x1b", "\x9b"} & set(str(caught.value))


def test_time_outs_are_stretched() -> None:
    slow = make_guest(factor=100.0)
    later(0.3, lambda: slow.prints(b"up"))
    assert slow.console.expect("up", timeout=0.05)
    slow.close()


def test_trouble_ends_a_wait_at_once_with_the_splat(guest: Guest) -> None:
    later(0.05, lambda: guest.prints(PANIC))
    started = time.monotonic()
    with pytest.raises(Trouble) as caught:
        guest.console.expect("login", timeout=60)
    assert time.monotonic() - started < 10
    assert "Kernel panic - not syncing" in caught.value.what
    assert "end Kernel panic" in caught.value.details
    assert guest.console.panicked
    assert guest.console.trouble() == "[    4.2] Kernel panic - not syncing: sysrq triggered crash"
    assert guest.console.trouble(guest.console.mark) is None


def test_what_comes_before_the_trouble_is_found(guest: Guest) -> None:
    guest.prints(b"login: \r\n" + PANIC)
    guest.settled()
    assert guest.console.expect("login")


def test_trouble_on_purpose(guest: Guest) -> None:
    guest.prints(PANIC)
    assert guest.console.expect("end Kernel panic", trouble=())


def test_a_machine_that_ends_ends_the_wait_with_the_cause(guest: Guest) -> None:
    def reset() -> None:
        guest.cause.append("the machine was reset")
        guest.console.wake()

    guest.prints(b"last words\r\n")
    later(0.05, reset)
    with pytest.raises(Ended, match="the machine was reset") as caught:
        guest.console.expect("login", timeout=60)
    assert "last words" in caught.value.details
    # What was printed before may still be waited for.
    guest.cause.append("again")
    assert guest.console.saw("last words")


def test_a_closed_line_ends_the_wait(guest: Guest) -> None:
    guest.cause.append("QEMU was killed")
    later(0.05, guest.sock.close)
    with pytest.raises(Ended, match="QEMU was killed"):
        guest.console.expect("login", timeout=60)


def test_nobody_waits_and_the_guest_does_not_stall(guest: Guest) -> None:
    flood = b"".join(b"line %08d of a flood that nobody reads\r\n" % i for i in range(200_000))
    guest.sock.settimeout(30)
    guest.prints(flood)
    assert guest.settled().transcript == flood


def test_lines_have_times(guest: Guest) -> None:
    before = time.monotonic()
    guest.prints(b"first\r\nsec")
    guest.settled()
    time.sleep(0.05)
    between = time.monotonic()
    guest.prints(b"ond\r\nthird\r\n")
    lines = guest.settled().lines()
    assert [line.text for line in lines] == ["first", "second", "third"]
    assert before <= lines[0].time == lines[1].time <= between <= lines[2].time


def test_bytes_that_are_no_text(guest: Guest) -> None:
    guest.prints(b"\xff\xfe\x00torn \xe2\x82 text\r\n")
    assert guest.console.expect("text")
    assert guest.console.transcript == b"\xff\xfe\x00torn \xe2\x82 text\r\n"
    assert "\x00" not in guest.console.tail()


def test_listeners_get_everything_until_they_leave(guest: Guest) -> None:
    heard: list[bytes] = []
    leave = guest.console.subscribe(lambda data, when: heard.append(data))
    guest.prints(b"one")
    guest.settled()
    leave()
    guest.prints(b"two")
    guest.settled()
    assert b"".join(heard) == b"one"


def test_typing(guest: Guest) -> None:
    guest.console.send("echo héllo\n")
    assert guest.sock.recv(100) == "echo héllo\n".encode()


@settings(max_examples=50, deadline=None)
@given(cuts=st.lists(st.integers(0, len(PANIC)), max_size=8))
def test_a_stream_cut_anywhere_reads_the_same(cuts: list[int]) -> None:
    guest = make_guest()
    places = [0, *sorted(cuts), len(PANIC)]
    for start, end in pairwise(places):
        guest.prints(PANIC[start:end])
        guest.settled()
    assert guest.console.transcript == PANIC
    assert guest.console.trouble() == re.findall(r".*not syncing.*crash", PANIC.decode())[0]
    assert guest.console.expect("end Kernel panic", trouble=())
    guest.close()
