# SPDX-License-Identifier: MIT
"""The real agent on a pseudo-terminal of this computer, over a wire that spoils what it carries."""

from __future__ import annotations

import contextlib
import os
import pty
import random
import socket
import subprocess
import threading
import time
import tty
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from harness import paths
from harness.vm.channel import Channel
from harness.vm.command import ChannelError, CommandFailed
from harness.vm.console import Console
from harness.vm.link import PAYLOAD_MAX, Decoder, Frame, Type
from harness.vm.pump import Pump

Spoil = Callable[[bytes], bytes]
BINARY = bytes(range(256)) + b"\x7e\x7d\x5e\x5d\x7e\x7e\x7d" * 300
FRAMES = [
    Frame(Type.HELLO, 0xDEADBEEF),
    Frame(Type.STDOUT, 1, BINARY[:PAYLOAD_MAX], 0xFFFF, 7),
    Frame(Type.STDERR, 1, b"\x7e" * PAYLOAD_MAX, 0, 8),
    Frame(Type.EXIT, 1, bytes(8), 1, 9),
]


def whole(data: bytes) -> bytes:
    return data


class Wire:
    """Carries bytes between a socket and a terminal; ``up`` and ``down`` may spoil them."""

    def __init__(self, agent: Path, folder: Path) -> None:
        self.up: Spoil = whole
        self.down: Spoil = whole
        self.master, slave = pty.openpty()
        tty.setraw(slave)
        self.near, self.far = socket.socketpair()
        self.argv = [str(agent), os.ttyname(slave)]
        self.folder = folder
        self.start_agent()
        for carry in (self._carry_down, self._carry_up):
            threading.Thread(target=carry, daemon=True).start()
        self.slave = slave

    def start_agent(self) -> None:
        self.agent = subprocess.Popen(self.argv, cwd=self.folder)

    def _carry_down(self) -> None:
        with contextlib.suppress(OSError):
            while data := self.far.recv(4096):
                data = self.down(data)
                while data:
                    data = data[os.write(self.master, data) :]

    def _carry_up(self) -> None:
        with contextlib.suppress(OSError):
            while data := os.read(self.master, 4096):
                self.far.sendall(self.up(data))

    def close(self) -> None:
        self.agent.kill()
        self.agent.wait()
        for fd in (self.slave, self.master):
            os.close(fd)


@pytest.fixture(scope="module")
def agent(tmp_path_factory: pytest.TempPathFactory) -> Path:
    binary = tmp_path_factory.mktemp("agent") / "mkagent"
    sources = sorted((paths.INITRAMFS / "agent").glob("*.c"))
    flags = ["-static", "-O2", "-Wall", "-Wextra", "-Werror"]
    subprocess.run(["gcc", *flags, "-o", binary, *sources], check=True)
    return binary


@pytest.fixture
def wire(agent: Path, tmp_path: Path) -> Iterator[Wire]:
    made = Wire(agent, tmp_path)
    yield made
    made.close()


@pytest.fixture
def channel(wire: Wire) -> Iterator[Channel]:
    pump = Pump(wire.near, wire.near, "alpha.agent")
    made = Channel(pump, kernel="alpha")
    pump.start()
    made.wait_ready(10)
    yield made
    pump.close()


def test_status_and_both_streams_are_exact(channel: Channel) -> None:
    result = channel.run(r"printf 'out\000\377\n'; printf 'err\176\175' >&2; exit 7")
    assert (result.status, result.stdout, result.stderr) == (7, b"out\0\xff\n", b"err\x7e\x7d")
    with pytest.raises(CommandFailed, match="status 7") as caught:
        result.check()
    assert "stderr: err~}" in str(caught.value)
    assert "\\x00" in str(caught.value)
    assert channel.run("true").check().text == ""
    assert channel.release == os.uname().release


def test_a_command_killed_by_a_signal(channel: Channel) -> None:
    assert channel.run("kill -TERM $$").status == -15


def test_megabytes_both_ways(channel: Channel, tmp_path: Path) -> None:
    data = random.Random(1).randbytes(1 << 20)
    channel.put(f"{tmp_path}/file", data, 0o750)
    assert (tmp_path / "file").read_bytes() == data
    assert (tmp_path / "file").stat().st_mode & 0o7777 == 0o750
    assert channel.get(f"{tmp_path}/file") == data
    result = channel.run(f"cat {tmp_path}/file; cat {tmp_path}/file >&2")
    assert result.stdout == result.stderr == data


def test_a_running_program_can_be_replaced(channel: Channel, tmp_path: Path) -> None:
    program = tmp_path / "sleep"
    program.write_bytes(Path("/bin/sleep").read_bytes())
    program.chmod(0o755)
    with subprocess.Popen([program, "60"]) as running:
        channel.put(str(program), b"new", 0o755)
        running.kill()
    assert program.read_bytes() == b"new"


def test_files_that_cannot_be(channel: Channel, tmp_path: Path) -> None:
    with pytest.raises(ChannelError, match="alpha: cannot read /absent: No such file"):
        channel.get("/absent")
    with pytest.raises(ChannelError, match="alpha: cannot write /absent/file: No such file"):
        channel.put("/absent/file", bytes(100_000))
    with pytest.raises(ChannelError, match="No space left"):
        channel.put("/dev/full", bytes(100_000))
    channel.put(f"{tmp_path}/empty", b"")
    assert channel.get(f"{tmp_path}/empty") == b""


def test_long_commands_and_too_long_ones(channel: Channel) -> None:
    text = "x" * 100_000
    assert channel.run(f"echo {text}").text == text
    with pytest.raises(ChannelError, match="Argument list too long"):
        channel.run(f"echo {text}{text}")
    assert channel.run("echo well").text == "well"


def test_a_time_out_kills_the_command_and_all_it_started(channel: Channel, tmp_path: Path) -> None:
    with pytest.raises(ChannelError, match=r"alpha: the command 'echo begun.*' did not end") as caught:
        channel.run(f"echo begun; (sleep 0.5; touch {tmp_path}/late) & sleep 60", timeout=0.2)
    assert "stdout: begun" in str(caught.value)
    time.sleep(0.6)
    assert not (tmp_path / "late").exists()
    assert channel.run("echo well").text == "well"


def test_what_runs_in_the_background_does_not_hold_up(channel: Channel) -> None:
    started = time.monotonic()
    assert channel.run("sleep 30 & echo started").text == "started"
    assert time.monotonic() - started < 10


def test_a_flood_and_other_commands_beside_it(channel: Channel) -> None:
    results: list[bytes] = []
    flood = threading.Thread(target=lambda: results.append(channel.run("seq 300000").stdout))
    flood.start()
    for number in range(20):
        assert channel.run(f"echo {number}").text == str(number)
    flood.join()
    assert results == [b"".join(b"%d\n" % i for i in range(1, 300_001))]


def test_an_agent_that_starts_anew(wire: Wire, channel: Channel) -> None:
    def die() -> None:
        wire.agent.kill()
        wire.agent.wait()
        wire.start_agent()

    threading.Timer(0.2, die).start()
    with pytest.raises(ChannelError, match="its agent started anew"):
        channel.run("sleep 60")
    assert channel.run("echo well").text == "well"


def test_a_new_session_ends_what_the_old_one_ran(channel: Channel) -> None:
    def sleep() -> None:
        with pytest.raises(ChannelError, match="started anew"):
            channel.run("sleep 60")

    lost = threading.Thread(target=sleep)
    lost.start()
    time.sleep(0.2)
    channel.wait_ready(10)
    lost.join(5)
    assert not lost.is_alive()
    assert channel.run("echo well").text == "well"


def test_a_session_is_new_also_where_random_numbers_repeat(wire: Wire) -> None:
    # As in processes that pytest-random-order seeds alike: one froze the machine, another forks it.
    for _ in range(2):
        random.seed(1)
        end = wire.near.dup()
        pump = Pump(end, end, "alpha.agent")
        channel = Channel(pump, kernel="alpha")
        pump.start()
        channel.wait_ready(10)
        assert channel.run("echo well", timeout=5).text == "well"
        pump.close()


def test_nobody_answers() -> None:
    near, far = socket.socketpair()
    pump = Pump(near, near, "alpha.agent")
    silent = Channel(pump, kernel="alpha")
    pump.start()
    with pytest.raises(ChannelError, match="alpha: its agent did not answer in 1 s"):
        silent.wait_ready(1)
    # A line that nobody reads gets one greeting, not one for each try.
    far.setblocking(False)
    assert len(far.recv(4096)) < 40
    pump.close()


def test_trouble_on_the_console_ends_a_command(wire: Wire) -> None:
    near, far = socket.socketpair()
    line, talk = Pump(near, near, "alpha"), Pump(wire.near, wire.near, "alpha.agent")
    console = Console(line, ended=lambda: None)
    channel = Channel(talk, kernel="alpha", console=console)
    line.start()
    talk.start()
    channel.wait_ready(10)
    threading.Timer(0.2, lambda: far.sendall(b"Oops: 0002 [#1] SMP\r\nRIP: 0010:f\r\n")).start()
    with pytest.raises(ChannelError, match="its kernel printed 'Oops: 0002") as caught:
        channel.run("sleep 60")
    assert "RIP: 0010:f" in str(caught.value)
    assert caught.value.splat is not None
    assert (caught.value.splat.kind, caught.value.splat.last) == ("oops", 1)
    # It was no panic: the kernel may still be asked.
    assert channel.run("echo well").text == "well"
    far.sendall(b"Kernel panic - not syncing: Fatal exception\r\n")
    line.drain(5)
    with pytest.raises(ChannelError, match="its kernel printed"):
        channel.run("sleep 60")
    assert channel.run("echo still", watch=False).text == "still"
    line.close()
    talk.close()


class Spoiler:
    """Loses, adds and changes bytes, now and then."""

    def __init__(self, seed: int, rate: float) -> None:
        self.random = random.Random(seed)
        self.rate = rate

    def __call__(self, data: bytes) -> bytes:
        if self.random.random() > self.rate:
            return data
        place = self.random.randrange(len(data))
        kind = self.random.randrange(4)
        noise = self.random.choice((b"\x7e", b"\x7d", b"login: ", self.random.randbytes(50)))
        return {
            0: data[:place] + data[place + 1 + self.random.randrange(40) :],
            1: data[:place] + noise + data[place:],
            2: data[:place] + bytes([data[place] ^ 1 << self.random.randrange(8)]) + data[place + 1 :],
            3: b"",
        }[kind]


@settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 1 << 32))
def test_a_line_that_spoils_loses_nothing(wire: Wire, channel: Channel, tmp_path: Path, seed: int) -> None:
    data = random.Random(seed).randbytes(20_000)
    wire.up, wire.down = Spoiler(seed, 0.1), Spoiler(seed + 1, 0.1)
    channel.put(f"{tmp_path}/file", data)
    assert channel.get(f"{tmp_path}/file") == data
    result = channel.run(f"cat {tmp_path}/file; echo no >&2; exit 3")
    assert (result.status, result.stdout, result.stderr) == (3, data, b"no\n")


@given(
    noise=st.lists(st.binary(max_size=700).map(lambda b: b.replace(b"\x7e", b"")), min_size=4, max_size=4),
    cuts=st.lists(st.integers(0, 10_000)),
)
def test_frames_are_found_in_noise_wherever_the_stream_is_cut(noise: list[bytes], cuts: list[int]) -> None:
    stream = b"".join(part + frame.encode() for part, frame in zip(noise, FRAMES, strict=True))
    places = [0, *sorted(min(cut, len(stream)) for cut in cuts), len(stream)]
    decoder = Decoder()
    found = []
    for start, end in pairwise(places):
        found += decoder.feed(stream[start:end])
    assert found == FRAMES


@given(place=st.integers(0, len(FRAMES[1].encode()) - 1), bit=st.integers(0, 7))
def test_a_flipped_bit_never_gives_a_frame_that_was_not_sent(place: int, bit: int) -> None:
    data = bytearray(FRAMES[1].encode())
    data[place] ^= 1 << bit
    assert set(Decoder().feed(bytes(data))) <= {FRAMES[1]}


def test_endless_noise_takes_no_memory() -> None:
    decoder = Decoder()
    for _ in range(100):
        assert not list(decoder.feed(bytes(100_000)))
    assert len(decoder._rest) < 10_000
    assert list(decoder.feed(b"\x7e" + FRAMES[0].encode())) == [FRAMES[0]]
