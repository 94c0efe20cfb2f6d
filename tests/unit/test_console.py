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

from harness.klog.splat import Severity, find_splats
from harness.vm.console import Console, Ended, TimedOut, Trouble, Unseen, printed, readable
from harness.vm.pump import Pump

PANIC = (
    b"[    4.1] sysrq: Trigger a crash\r\n"
    b"[    4.2] Kernel panic - not syncing: sysrq triggered crash\r\n"
    b"[    4.3] CPU: 1 UID: 0 PID: 123 Comm: sh\r\n"
    b"[    4.4] ---[ end Kernel panic ]---\r\n"
)

WARNING = (
    b"[    5.000001] ------------[ cut here ]------------\r\n"
    b"[    5.000002] the widget is bent\r\n"
    b"[    5.000003] WARNING: CPU: 0 PID: 57 at /src/widget.c:23 bend_widget+0x13/0x16 [widget]\r\n"
    b"[    5.000004] Call Trace:\r\n"
    b"[    5.000005]  use_widget+0x3c/0x1000 [widget]\r\n"
    b"[    5.000006] ---[ end trace 0000000000000000 ]---\r\n"
)
LOCKUP = (
    b"[    6.000001] watchdog: BUG: soft lockup - CPU#1 stuck for 22s! [insmod:57]\r\n"
    b"[    6.000002] RIP: 0010:spin_widget+0x2e/0x44 [widget]\r\n"
)
KILLED = b"[    7.0] Out of memory: Killed process 109 (tail) total-vm:19728kB\r\n"


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


def test_pattern_of_what_is_printed_is_shown_as_its_text():
    assert readable(printed("mkh: it is up. (1)")) == "mkh: it is up. (1)"
    assert readable(r"a\+b \d") == r"a\+b \d"


def test_waits_move_forward_and_the_transcript_stays(guest: Guest) -> None:
    guest.prints(b"Linux version 7.3.4\r\nmkh: user space is up on alpha, 7.3.4, 1 CPUs\r\n")
    assert guest.console.expect(r"Linux version (\S+)")[1] == "7.3.4"
    assert guest.console.expect(r"up on (\w+)")[1] == "alpha"
    with pytest.raises(TimedOut):
        guest.console.expect("Linux version", timeout=0.05)
    assert guest.console.saw("Linux version")
    assert not guest.console.saw("Linux version 8")


def test_a_kernels_message_may_stand_in_what_user_space_prints(guest: Guest) -> None:
    guest.prints(b"up on alpha, [    2.089870] clocksource: Watchdog\r\n[    2.1] two\r\n7.3.4, 2 CPUs\r\n")
    assert guest.console.expect(printed("up on alpha, 7.3.4, 2 CPUs"))
    guest.prints(b"up on alpha, somebody else, 7.3.4, 2 CPUs\r\n")
    with pytest.raises(TimedOut):
        guest.console.expect(printed("up on alpha, 7.3.4, 2 CPUs"), timeout=0.05)


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


def test_an_error_has_the_whole_splat(guest: Guest) -> None:
    half = WARNING.index(b"[    5.000005]")
    later(0.05, lambda: guest.prints(WARNING[:half]))
    later(0.3, lambda: guest.prints(WARNING[half:] + b"[    5.1] eth0: link is up\r\n" * 60))
    with pytest.raises(Trouble, match="WARNING: CPU: 0 PID: 57") as caught:
        guest.console.expect("login", timeout=60)
    splat = caught.value.splat
    assert (splat.title, splat.kind, splat.severity) == ("WARNING in bend_widget", "warning", Severity.REPORT)
    assert splat.text == WARNING.decode().replace("\r\n", "\n").strip()
    assert not splat.open
    assert splat.text in caught.value.details
    assert not caught.value.advice
    assert not guest.console.panicked


def test_one_splat_ends_one_wait(guest: Guest) -> None:
    guest.prints(WARNING + b"login: \r\n" + LOCKUP + b"more\r\n")
    guest.settled()
    with pytest.raises(Trouble, match="WARNING"):
        guest.console.expect("more")
    assert guest.console.expect("login")
    with pytest.raises(Trouble, match="soft lockup") as caught:
        guest.console.expect("more")
    assert "less load" in caught.value.advice
    assert guest.console.expect("more")


def test_what_is_only_noted_ends_no_wait(guest: Guest) -> None:
    guest.prints(KILLED + b"login: ")
    assert guest.console.expect("login", timeout=5)
    assert guest.console.trouble() is None
    assert [splat.kind for splat in guest.console.splats()] == ["out-of-memory"]


@pytest.mark.parametrize(
    "pattern", ["WARNING in bend_widget", "the widget is bent", r"WARNING.*widget\.c:23"]
)
def test_a_splat_on_purpose(guest: Guest, pattern: str) -> None:
    before = guest.console.mark
    with guest.console.expected(pattern) as expected:
        later(0.05, lambda: guest.prints(WARNING + b"login: "))
        assert guest.console.expect("login", timeout=30)
        assert guest.console.trouble(before) is None
    assert [splat.title for splat in expected.splats] == ["WARNING in bend_widget"]
    # It stays allowed, and is still there to be looked at.
    assert guest.console.trouble(before) is None
    assert guest.console.splats() == expected.splats
    # The next one, after the block, is not.
    guest.prints(WARNING)
    with pytest.raises(Trouble, match="WARNING"):
        guest.console.expect("never")


def test_another_splat_than_the_expected_one(guest: Guest) -> None:
    # The call trace names use_widget, but it did not happen there.
    later(0.05, lambda: guest.prints(WARNING))
    with (
        guest.console.expected("in use_widget|soft lockup", required=False) as expected,
        pytest.raises(Trouble, match="WARNING: CPU: 0"),
    ):
        guest.console.expect("login", timeout=30)
    assert expected.splats == ()


def test_a_title_that_is_known_late(guest: Guest) -> None:
    with guest.console.expected("soft lockup in spin_widget") as expected:
        place = LOCKUP.index(b"\n") + 1
        later(0.05, lambda: guest.prints(LOCKUP[:place]))
        later(0.3, lambda: guest.prints(LOCKUP[place:] + b"login: "))
        assert guest.console.expect("login", timeout=30)
    assert expected.splats[0].text == LOCKUP.decode().replace("\r\n", "\n").strip()


def test_a_splat_that_must_come(guest: Guest) -> None:
    with guest.console.expected("soft lockup") as expected:
        later(0.3, lambda: guest.prints(LOCKUP))
    assert len(expected.splats) == 1
    guest.prints(b"login: ")
    with (
        pytest.raises(Unseen, match="alpha: no splat that matches 'soft lockup' came") as caught,
        guest.console.expected("soft lockup", timeout=0.1),
    ):
        pass
    assert "login:" in caught.value.details
    with guest.console.expected("soft lockup", required=False) as expected:
        pass
    assert expected.splats == ()
    with pytest.raises(ZeroDivisionError), guest.console.expected("soft lockup"):
        _ = 1 / 0


def test_an_expected_panic_ends_no_wait_but_every_command(guest: Guest) -> None:
    with guest.console.expected("sysrq triggered crash"):
        guest.prints(PANIC)
        assert guest.console.expect("end Kernel panic")
    splat = guest.console.splat()
    assert splat is not None
    assert splat.title == "Kernel panic: sysrq triggered crash"
    assert guest.console.panicked


def test_the_end_of_one_kernel_does_not_concern_the_next(guest: Guest) -> None:
    with guest.console.expected("sysrq"):
        guest.prints(PANIC)
    guest.settled().renew()
    assert not guest.console.panicked
    assert guest.console.splat() is None
    guest.prints(b"[    0.0] Linux version 7.3.4\r\n")
    assert guest.console.expect("Linux version (\\S+)")[1] == "7.3.4"
    guest.prints(PANIC)
    assert guest.settled().panicked
    assert guest.console.splat() is not None


def test_a_panic_is_known_whole_without_waiting(guest: Guest) -> None:
    guest.prints(PANIC)
    guest.settled()
    started = time.monotonic()
    guest.console.settle()
    assert time.monotonic() - started < 0.4


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


STREAM = b"up\r\n" + WARNING + b"login: \r\n" + LOCKUP + KILLED + b"eth0: up\r\n" * 12 + PANIC + b"over"


@settings(max_examples=50, deadline=None)
@given(cuts=st.lists(st.integers(0, len(STREAM)), max_size=8))
def test_a_stream_cut_anywhere_reads_the_same(cuts: list[int]) -> None:
    guest = make_guest()
    for start, end in pairwise([0, *sorted(cuts), len(STREAM)]):
        guest.prints(STREAM[start:end])
        guest.settled()
    console = guest.console
    assert console.transcript == STREAM
    assert [s.title for s in console.splats()] == [s.title for s in find_splats(STREAM)]
    assert console.trouble() == re.findall(r".*WARNING.*", STREAM.decode())[0].strip()
    assert console.panicked
    assert console.expect("end Kernel panic", trouble=())
    with pytest.raises(TimedOut):
        console.expect("nothing", timeout=0)
    guest.close()


@settings(max_examples=15, deadline=None)
@given(cuts=st.lists(st.integers(0, len(STREAM)), max_size=4), pause=st.booleans())
def test_waits_end_at_the_same_places_however_the_stream_is_cut(cuts: list[int], pause: bool) -> None:
    guest = make_guest()

    def talk() -> None:
        for start, end in pairwise([0, *sorted(cuts), len(STREAM)]):
            guest.prints(STREAM[start:end])
            if pause:
                time.sleep(0.001)

    talker = threading.Thread(target=talk)
    seen = []
    with guest.console.expected("soft lockup"):
        talker.start()
        for _ in range(3):
            try:
                seen.append(guest.console.expect("over|login", timeout=30)[0])
            except Trouble as trouble:
                seen.append(trouble.splat.title)
    talker.join()
    assert seen == ["WARNING in bend_widget", "login", "Kernel panic: sysrq triggered crash"]
    guest.close()
