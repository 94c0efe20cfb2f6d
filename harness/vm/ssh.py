# SPDX-License-Identifier: MIT
"""SSH into a machine's guest: a second way in, for files and for people.

with Ssh(machine, "host") as ssh:
    ssh.put("/tmp/file", data)
    print(ssh.command)          # what a person types to come in, too

The machine's spec must have a network and the guest's user space a server (``ssh = true`` in the
kernel's definition). Each opening makes two keys, the guest's and the one that opens it; both go in
over the agent's line, so neither end has to trust the network. The port is on 127.0.0.1 only.
"""

from __future__ import annotations

import base64
import io
import re
import shlex
import shutil
import struct
import tempfile
import time
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any, Self

import paramiko  # type: ignore[import-untyped, unused-ignore]
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from harness import process
from harness.errors import HarnessError, UsageError
from harness.vm.command import CommandFailed, Result
from harness.vm.machine import Machine
from harness.vm.spec import NETDEV

HOST = "127.0.0.1"
GUEST = "10.0.2.15"
"""The guest's address in QEMU's user network."""
ALGORITHM = "ssh-ed25519"
FOLDER = "/run/mkh-ssh"
"""Where the guest's key and the server's process id are."""
BLOCK = 1 << 15
Raw = serialization.Encoding.Raw


class SshError(HarnessError):
    """The guest cannot be reached by SSH, or what was under way there was cut off."""


class Ssh:
    """SSH into the guest ``kernel``, open as long as the ``with`` block.

    ``client`` is paramiko's, connected as root to a guest whose key was checked; ``port`` is
    forwarded on 127.0.0.1. Time-outs are stretched by the accelerator's factor. One at a time for
    each machine; any number of connections may use ``command`` meanwhile.
    """

    def __init__(self, machine: Machine, kernel: str = "host", timeout: float = 20.0) -> None:
        self.machine = machine
        self.kernel = kernel
        self.port = 0
        self.client: Any = paramiko.SSHClient()
        self._timeout = timeout * machine.accel.factor
        self._folder: Path
        self._resources = ExitStack()

    def __enter__(self) -> Self:
        if not self.machine.spec.network:
            raise UsageError(
                f"{self.kernel}: the machine has no network, so there is no SSH into it",
                advice="take a kernel definition with `ssh = true`, such as --kernel reference-ssh",
            )
        with ExitStack() as undo:
            undo.callback(self._resources.close)
            self._open()
            undo.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._resources.close()

    @property
    def command(self) -> str:
        """The shell command by which a person comes in while this is open."""
        options = ("IdentitiesOnly=yes", "StrictHostKeyChecking=yes", "GlobalKnownHostsFile=/dev/null")
        words = ["ssh", "-F", "none", "-i", str(self._folder / "key"), "-p", str(self.port)]
        for option in (*options, f"UserKnownHostsFile={self._folder / 'known_hosts'}"):
            words += ["-o", option]
        return shlex.join([*words, f"root@{HOST}"])

    def run(self, command: str, stdin: bytes = b"") -> Result:
        """Run a shell command and return its status and both streams. Raises SshError."""
        started = time.monotonic()
        out, err = bytearray(), bytearray()
        limit = started + self._timeout
        try:
            channel = self.client.get_transport().open_session(timeout=self._timeout)
            with channel:
                channel.settimeout(self._timeout)
                channel.exec_command(command)
                rest = memoryview(stdin)
                closed = False
                while True:
                    busy = False
                    if not closed and channel.send_ready():
                        rest = rest[channel.send(rest[:BLOCK]) :] if rest else rest
                        busy = True
                        if not rest:
                            channel.shutdown_write()
                            closed = True
                    if channel.recv_ready():
                        out += channel.recv(BLOCK)
                        busy = True
                    if channel.recv_stderr_ready():
                        err += channel.recv_stderr(BLOCK)
                        busy = True
                    if busy:
                        limit = time.monotonic() + self._timeout
                    elif channel.exit_status_ready() and channel.eof_received:
                        break
                    elif channel.closed or not channel.get_transport().is_active():
                        raise SshError(f"{self.kernel}: the connection ended during {command!r}")
                    elif time.monotonic() > limit:
                        what = f"{self.kernel}: {command!r} was silent for {self._timeout:g} s"
                        raise SshError(what, timed_out=True)
                    else:
                        time.sleep(0.002)
                status = channel.recv_exit_status()
        except (paramiko.SSHException, OSError, EOFError, AttributeError) as error:
            raise self._lost(f"{command!r} was cut off", error) from error
        seconds = time.monotonic() - started
        return Result(self.kernel, command, status, bytes(out), bytes(err), seconds)

    def put(self, path: str, data: bytes, mode: int = 0o644) -> None:
        """Write ``data`` to the file ``path`` in the guest. Raises SshError or CommandFailed."""
        name = shlex.quote(path)
        self.run(f"cat >{name} && chmod {mode:o} {name}", data).check()

    def get(self, path: str) -> bytes:
        """Return what the guest's file ``path`` holds. Raises SshError or CommandFailed."""
        return self.run(f"cat <{shlex.quote(path)}").check().stdout

    def _open(self) -> None:
        if self._forwarded():
            raise UsageError(
                f"{self.kernel}: SSH into this machine is open", advice="use the one that is open"
            )
        guest, mine = Ed25519PrivateKey.generate(), Ed25519PrivateKey.generate()
        self._start_server(guest, mine)
        self._resources.callback(self._stop_server)
        self._forward()
        self._write_files(guest, mine)
        self._connect(guest, mine)

    def _start_server(self, guest: Ed25519PrivateKey, mine: Ed25519PrivateKey) -> None:
        channel = self.machine.channel(self.kernel)
        try:
            channel.run("command -v dropbear && [ -e /sys/class/net/eth0 ]").check()
        except CommandFailed as error:
            raise SshError(
                f"{self.kernel}: the guest has no SSH server or no network card",
                details=error.details,
                advice="take a kernel definition with `ssh = true`, such as --kernel reference-ssh",
            ) from None
        channel.run(f"umask 077; mkdir -p {FOLDER} /root/.ssh").check()
        channel.put(f"{FOLDER}/key", server_key(guest), 0o600)
        line = f"{ALGORITHM} {base64.b64encode(public_key(mine)).decode()} mkharness\n"
        channel.put("/root/.ssh/authorized_keys", line.encode(), 0o600)
        channel.run(
            "ip link set lo up && ip link set eth0 up && "
            f"{{ ip addr show dev eth0 | grep -q {GUEST}/ || ip addr add {GUEST}/24 dev eth0; }} && "
            # -s: no passwords; its own log goes to a file, since nobody keeps a syslog.
            f"dropbear -s -E -r {FOLDER}/key -P {FOLDER}/pid -p {GUEST}:22 >{FOLDER}/log 2>&1 </dev/null"
        ).check()

    def _stop_server(self) -> None:
        with suppress(HarnessError):
            if self.machine.ended() is None:
                # What people opened goes, too.
                self.machine.channel(self.kernel).run(f"killall dropbear; rm -rf {FOLDER}", 5.0)

    def _forward(self) -> None:
        said = self._monitor(f"hostfwd_add {NETDEV} tcp:{HOST}:0-{GUEST}:22")
        self.port = self._forwarded()
        if said.strip() or not self.port:
            raise SshError(f"QEMU does not forward a port to the guest: {said.strip() or 'none is listed'}")
        self._resources.callback(self._unforward)

    def _forwarded(self) -> int:
        """Return the port that is forwarded now, or 0."""
        listed = self._monitor("info usernet")
        match = re.search(r"TCP\[HOST_FORWARD\]\s+\d+\s+127\.0\.0\.1\s+(\d+)\s", listed)
        return int(match[1]) if match else 0

    def _unforward(self) -> None:
        with suppress(HarnessError):
            self._monitor(f"hostfwd_remove {NETDEV} tcp:{HOST}:{self.port}")

    def _monitor(self, line: str) -> str:
        return str(self.machine.qmp.execute("human-monitor-command", command_line=line))

    def _write_files(self, guest: Ed25519PrivateKey, mine: Ed25519PrivateKey) -> None:
        """Write what a person's ssh needs."""
        self._folder = Path(tempfile.mkdtemp(prefix="ssh-", dir=process.scratch()))
        self._resources.callback(shutil.rmtree, self._folder, ignore_errors=True)
        (self._folder / "key").touch(0o600)
        (self._folder / "key").write_bytes(_pem(mine))
        known = f"[{HOST}]:{self.port} {ALGORITHM} {base64.b64encode(public_key(guest)).decode()}\n"
        (self._folder / "known_hosts").write_text(known)

    def _connect(self, guest: Ed25519PrivateKey, mine: Ed25519PrivateKey) -> None:
        self._resources.callback(self.client.close)
        known = paramiko.Ed25519Key(data=public_key(guest))
        self.client.get_host_keys().add(f"[{HOST}]:{self.port}", ALGORITHM, known)
        # What is not that key is refused.
        self.client.set_missing_host_key_policy(paramiko.RejectPolicy())
        try:
            self.client.connect(
                HOST,
                self.port,
                "root",
                pkey=paramiko.Ed25519Key(file_obj=io.StringIO(_pem(mine).decode())),
                allow_agent=False,
                look_for_keys=False,
                timeout=self._timeout,
                banner_timeout=self._timeout,
                auth_timeout=self._timeout,
            )
        except (paramiko.SSHException, OSError, EOFError) as error:
            raise self._lost("cannot log in", error) from error

    def _lost(self, what: str, error: Exception) -> SshError:
        """Return an error with the machine's end, or else with what the server wrote."""
        ended = self.machine.ended()
        log = ""
        if ended is None:
            with suppress(HarnessError):
                log = self.machine.channel(self.kernel).run(f"tail -n 20 {FOLDER}/log", 5.0).text
        return SshError(
            f"{self.kernel}: SSH: {what}: {ended or error or type(error).__name__}",
            details=f"The server wrote:\n{log}" if log else "",
            advice=f"see the console of {self.kernel}, and whether the machine is frozen",
        )


def public_key(key: Ed25519PrivateKey) -> bytes:
    """Return the public half as SSH writes it."""
    public = key.public_key().public_bytes(Raw, serialization.PublicFormat.Raw)
    return _string(ALGORITHM.encode()) + _string(public)


def server_key(key: Ed25519PrivateKey) -> bytes:
    """Return a key in dropbear's own format: the algorithm, then both halves as one string."""
    private = key.private_bytes(Raw, serialization.PrivateFormat.Raw, serialization.NoEncryption())
    public = key.public_key().public_bytes(Raw, serialization.PublicFormat.Raw)
    return _string(ALGORITHM.encode()) + _string(private + public)


def _string(data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + data


def _pem(key: Ed25519PrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.OpenSSH, serialization.NoEncryption()
    )
