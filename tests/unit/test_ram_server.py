# SPDX-License-Identifier: MIT
"""The server of reads, with a file in a guest's place."""

from __future__ import annotations

import itertools
import os
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.errors import HarnessError
from harness.model import Region
from harness.vm import ram_server
from harness.vm.ram import Ram
from harness.vm.ram_layout import Layout
from harness.vm.ram_pages import PAGE
from harness.vm.ram_server import RamClient, RamServer

MIB = 1 << 20
CLIENT = """
import os, sys
from pathlib import Path
from harness.vm.ram_server import RamClient
if len(sys.argv) > 2:
    os.setuid(int(sys.argv[2]))
with RamClient(Path(sys.argv[1])) as client:
    print(client.read(0x1000, 6).decode())
"""


@pytest.fixture(scope="module")
def path() -> Iterator[Path]:
    """A server's socket; the memory is 40 MiB, a "marker" in page 1 and in the last one."""
    with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryFile() as file:
        os.truncate(file.fileno(), 40 * MIB)
        os.pwrite(file.fileno(), b"marker", PAGE)
        os.pwrite(file.fileno(), b"marker", 40 * MIB - 6)
        Path(folder).chmod(0o755)
        ram = Ram(file, Layout([Region(0, 39 * MIB), Region(4 << 30, MIB)]))
        with RamServer(ram, Path(folder) / "ram") as server:
            yield server.path
        assert not server.path.exists()


def test_what_is_served_is_the_memory(path: Path) -> None:
    with RamClient(path) as client:
        assert client.regions() == (Region(0, 39 * MIB), Region(4 << 30, MIB))
        assert client.written().tolist() == [1, (4 << 30 | MIB - 1) // PAGE]
        assert client.read(PAGE, 6) == client.read((4 << 30) + MIB - 6, 6) == b"marker"
        whole = client.read(0, 39 * MIB)
        assert (len(whole), whole.count(b"marker")) == (39 * MIB, 1)
        assert client.read(0, 0) == b""


def test_what_is_not_ram_is_refused_and_the_line_stays(path: Path) -> None:
    with RamClient(path) as client:
        for address, size in ((39 * MIB, 1), (39 * MIB - 1, 2), (1 << 63, 8), (1 << 64, 8), (-1, 4)):
            with pytest.raises(HarnessError, match=r"RAM"):
                client.read(address, size)
        with pytest.raises(HarnessError, match="no operation 9"):
            client._ask(9)
        with pytest.raises(HarnessError, match="too many for one request"):
            client._ask(ram_server.READ, 0, ram_server.READ_MAX + 1)
        assert client.read(PAGE, 6) == b"marker"


def test_the_same_user_in_another_process_is_answered(path: Path) -> None:
    client = subprocess.run([sys.executable, "-c", CLIENT, path], capture_output=True, text=True, check=True)
    assert client.stdout == "marker\n"
    assert path.stat().st_mode & 0o777 == 0o600


@pytest.mark.skipif(os.getuid() != 0, reason="only root can be somebody else")
def test_another_user_is_not(path: Path) -> None:
    def run() -> str:
        command = [sys.executable, "-c", CLIENT, path, "65534"]
        result = subprocess.run(command, capture_output=True, text=True, check=False)
        assert result.returncode
        return result.stderr

    assert "Permission denied" in run()
    path.chmod(0o666)
    try:
        assert "has ended" in run()
    finally:
        path.chmod(0o600)


@settings(max_examples=30, deadline=None)
@given(cuts=st.lists(st.integers(1, 33), max_size=6), noise=st.binary(max_size=40))
def test_requests_in_pieces_and_noise(path: Path, cuts: list[int], noise: bytes) -> None:
    requests = struct.pack("<BQQ", 1, PAGE, 6) * 2
    with socket.socket(socket.AF_UNIX) as raw:
        raw.settimeout(10)
        raw.connect(str(path))
        bounds = sorted({0, *cuts, len(requests)})
        for start, end in itertools.pairwise(bounds):
            raw.sendall(requests[start:end])
        expected = struct.pack("<BQ", 0, 6) + b"marker"
        assert ram_server._receive(raw, 2 * len(expected)) == expected * 2
        raw.sendall(noise)
    with RamClient(path) as client:
        assert client.read(PAGE, 6) == b"marker"


def test_many_at_a_time_and_too_many(path: Path) -> None:
    # The first stays: the server notices a little later that a client has left.
    client = RamClient(path)
    with ThreadPoolExecutor(8) as pool:
        assert set(pool.map(lambda _: client.read(PAGE, 6), range(64))) == {b"marker"}
    clients = [client, *(RamClient(path) for _ in range(ram_server.CLIENTS_MAX - 1))]
    for one in clients:
        assert one.read(PAGE, 6) == b"marker"
    with RamClient(path) as late, pytest.raises(HarnessError, match="has ended"):
        late.read(PAGE, 6)
    for one in clients:
        one.__exit__()
    limit = time.monotonic() + 10
    while True:
        try:
            with RamClient(path) as again:
                assert again.read(PAGE, 6) == b"marker"
            break
        except HarnessError:
            assert time.monotonic() < limit


def test_the_end_of_the_server_ends_its_clients_and_threads(tmp_path: Path) -> None:
    before = threading.active_count()
    with tempfile.TemporaryFile() as file:
        os.truncate(file.fileno(), MIB)
        ram = Ram(file, Layout([Region(0, MIB)]))
        with RamServer(ram, tmp_path / "ram") as server:
            with pytest.raises(HarnessError, match="in use"), RamServer(ram, server.path):
                pass
            client = RamClient(server.path)
            assert client.read(0, 1) == b"\0"
        with pytest.raises(HarnessError, match="has ended"):
            client.read(0, 1)
        client.__exit__()
        with pytest.raises(HarnessError, match="no memory is served"):
            RamClient(server.path)
        limit = time.monotonic() + 10
        while threading.active_count() > before:
            assert time.monotonic() < limit
            time.sleep(0.01)
        # What a harness that was killed has left is taken over; what is no socket is left alone.
        with socket.socket(socket.AF_UNIX) as left:
            left.bind(str(server.path))
        with RamServer(ram, server.path), RamClient(server.path) as client:
            assert client.read(0, 1) == b"\0"
        server.path.write_text("mine")
        with pytest.raises(HarnessError, match="in use"), RamServer(ram, server.path):
            pass
        assert server.path.read_text() == "mine"
        with pytest.raises(HarnessError, match="too long"), RamServer(ram, tmp_path / ("x" * 120)):
            pass
