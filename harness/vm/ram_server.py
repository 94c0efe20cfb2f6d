# SPDX-License-Identifier: MIT
"""Reads of a guest's memory for other processes of the same run, which may not look into QEMU's.

A request is 17 bytes, little-endian: an operation (1 read, 2 written pages, 3 regions), an address,
a size; both are 0 where they mean nothing. The answer is a status (0, or 1 for a refusal), a length
in 8 bytes and so many bytes: what was read; page numbers of 8 bytes each; start and size of each
region, 8 bytes each; or why not, in UTF-8. Any number of requests may follow one another.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
import threading
from contextlib import suppress
from pathlib import Path
from typing import Self

import numpy as np

from harness.errors import HarnessError
from harness.model import Region
from harness.vm.ram import Ram
from harness.vm.ram_pages import Pages

READ, WRITTEN, REGIONS = 1, 2, 3
READ_MAX = 16 << 20
"""Bytes that one request can ask for; the client cuts longer reads."""
ANSWER_MAX = 64 << 20
"""Bytes of an answer that a client takes; 8 million page numbers, 32 GiB of memory."""
CLIENTS_MAX = 16
IDLE = 60.0
"""Seconds after which a client that takes or sends nothing in the middle of something is cut off."""
_REQUEST = struct.Struct("<BQQ")
_ANSWER = struct.Struct("<BQ")
_PEER = struct.Struct("<iII")
"""Process, user and group of a connection's other end. Source: unix(7), SO_PEERCRED."""


class RamServer:
    """Serves ``ram`` at the socket ``path`` to this user's processes, while its ``with`` block lasts.

    The path must be free, or be a socket that nobody serves any more. Raises HarnessError when it
    cannot be had.
    """

    def __init__(self, ram: Ram, path: Path) -> None:
        self.path = path
        self._ram = ram
        self._listener = socket.socket(socket.AF_UNIX)
        self._clients: set[socket.socket] = set()
        self._lock = threading.Lock()

    def __enter__(self) -> Self:
        try:
            self._remove_stale()
            self._listener.bind(str(self.path))
            self.path.chmod(0o600)
            self._listener.listen()
        except OSError as error:
            self._listener.close()
            raise HarnessError(f"memory cannot be served at {self.path}: {error.strerror or error}") from None
        threading.Thread(target=self._accept, name=f"ram {self.path.name}", daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        with self._lock:
            ends = [self._listener, *self._clients]
        for end in ends:
            # Closing alone would leave a thread that waits on it waiting.
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.path.unlink(missing_ok=True)

    def _remove_stale(self) -> None:
        """Remove what a harness that was killed left there."""
        if not self.path.is_socket():
            return
        with socket.socket(socket.AF_UNIX) as probe, suppress(ConnectionRefusedError):
            probe.connect(str(self.path))
            raise OSError(errno.EADDRINUSE, os.strerror(errno.EADDRINUSE))
        self.path.unlink()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            peer = client.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _PEER.size)
            with self._lock:
                welcome = _PEER.unpack(peer)[1] == os.getuid() and len(self._clients) < CLIENTS_MAX
                if welcome:
                    self._clients.add(client)
            if not welcome:
                client.close()
                continue
            threading.Thread(target=self._serve, args=(client,), name="ram client", daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        try:
            with client:
                while True:
                    client.settimeout(None)
                    first = client.recv(1)
                    if not first:
                        return
                    client.settimeout(IDLE)
                    status, data = self._answer(*_REQUEST.unpack(first + _receive(client, _REQUEST.size - 1)))
                    client.sendall(_ANSWER.pack(status, len(data)) + data)
        except (OSError, EOFError):
            return
        finally:
            with self._lock:
                self._clients.discard(client)

    def _answer(self, operation: int, address: int, size: int) -> tuple[int, bytes]:
        try:
            if operation == READ:
                if size > READ_MAX:
                    raise HarnessError(f"{size} bytes are too many for one request, {READ_MAX} can be had")
                return 0, self._ram.read(address, size)
            if operation == WRITTEN:
                return 0, self._ram.written().astype("<i8").tobytes()
            if operation == REGIONS:
                return 0, b"".join(struct.pack("<QQ", r.start, r.size) for r in self._ram.regions)
            raise HarnessError(f"there is no operation {operation}")
        except HarnessError as error:
            return 1, str(error).encode()


class RamClient:
    """Reads from a RamServer. Every method raises HarnessError when it refuses or has ended."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._socket = socket.socket(socket.AF_UNIX)
        self._lock = threading.Lock()
        try:
            self._socket.connect(str(path))
        except OSError as error:
            self._socket.close()
            raise HarnessError(
                f"no memory is served at {path}: {error.strerror or error}",
                advice="look whether the machine is still there",
            ) from None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def read(self, address: int, size: int) -> bytes:
        """Return ``size`` bytes from guest-physical ``address``."""
        parts = [
            self._ask(READ, address + start, min(READ_MAX, size - start))
            for start in range(0, size, READ_MAX)
        ]
        return b"".join(parts)

    def written(self) -> Pages:
        """Return the pages written since the fork; see Ram.written."""
        return np.frombuffer(self._ask(WRITTEN), "<i8").astype(np.int64)

    def regions(self) -> tuple[Region, ...]:
        """Return where the guest has RAM."""
        return tuple(Region(*pair) for pair in struct.iter_unpack("<QQ", self._ask(REGIONS)))

    def _ask(self, operation: int, address: int = 0, size: int = 0) -> bytes:
        try:
            request = _REQUEST.pack(operation, address, size)
        except struct.error:
            raise HarnessError(f"{size} bytes at {address:#x} are not in any guest's RAM") from None
        try:
            with self._lock:
                self._socket.sendall(request)
                status, length = _ANSWER.unpack(_receive(self._socket, _ANSWER.size))
                if length > ANSWER_MAX:
                    raise EOFError
                data = _receive(self._socket, length)
        except (OSError, EOFError):
            raise HarnessError(f"the server of memory at {self._path} has ended") from None
        if status:
            raise HarnessError(data.decode("utf-8", "replace"))
        return data


def _receive(connection: socket.socket, size: int) -> bytes:
    """Receive so many bytes. Raises EOFError when the other end closes before."""
    data = bytearray(size)
    view = memoryview(data)
    while view:
        count = connection.recv_into(view)
        if not count:
            raise EOFError
        view = view[count:]
    return bytes(data)
