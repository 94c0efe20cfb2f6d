# SPDX-License-Identifier: MIT
"""SSH as a second way into the guest; only with a kernel that has it (--kernel reference-ssh)."""

from __future__ import annotations

import random
import shlex
import socket
import subprocess
from collections.abc import Iterator
from dataclasses import replace

import paramiko
import pytest

from harness.errors import UsageError
from harness.vm.accel import Accel
from harness.vm.command import CommandFailed
from harness.vm.machine import Machine, MachineSpec
from harness.vm.ssh import HOST, Ssh, SshError

needs_ssh = pytest.mark.needs("ssh")


@pytest.fixture
def networked(spec: MachineSpec, accel: Accel) -> Iterator[Machine]:
    with Machine(replace(spec, network=True), accel) as running:
        running.channel("guest").wait_ready()
        yield running


@needs_ssh
def test_commands_files_and_people(networked: Machine) -> None:
    data = random.Random(1).randbytes(1 << 20)
    with Ssh(networked, "guest") as ssh:
        result = ssh.run("id -u; echo oops >&2; exit 42")
        assert (result.status, result.text, result.stderr) == (42, "0", b"oops\n")
        ssh.put("/tmp/a file", data, 0o600)
        assert ssh.get("/tmp/a file") == data
        assert networked.channel("guest").run("stat -c %a '/tmp/a file'").text == "600"
        with pytest.raises(CommandFailed, match="/tmp/none"):
            ssh.get("/tmp/none")
        person = subprocess.run(
            [*shlex.split(ssh.command), "hostname"], capture_output=True, text=True, check=False, timeout=120
        )
        assert (person.returncode, person.stdout) == (0, "guest\n"), person.stderr
        port, folder = ssh.port, ssh.command
    assert not networked.channel("guest").run("pidof dropbear").text
    with pytest.raises(ConnectionRefusedError), socket.create_connection((HOST, port), 5):
        pass
    with Ssh(networked, "guest") as again:
        assert again.command != folder, "the key was not made anew"
        assert again.run("true").status == 0


@needs_ssh
def test_only_the_key_opens_and_only_the_guest_answers(networked: Machine) -> None:
    with Ssh(networked, "guest") as ssh, paramiko.SSHClient() as stranger:
        stranger.set_missing_host_key_policy(paramiko.RejectPolicy())
        key = paramiko.ECDSAKey.generate()
        options = {"pkey": key, "allow_agent": False, "look_for_keys": False, "timeout": 60}
        with pytest.raises(paramiko.SSHException, match="not found in known_hosts"):
            stranger.connect(HOST, ssh.port, "root", **options)
        stranger.get_host_keys().update(ssh.client.get_host_keys())
        with pytest.raises(paramiko.AuthenticationException):
            stranger.connect(HOST, ssh.port, "root", **options)
        with pytest.raises(UsageError, match="is open"), Ssh(networked, "guest"):
            pass


@needs_ssh
def test_the_guest_reaches_nobody(networked: Machine) -> None:
    with Ssh(networked, "guest"), socket.create_server((HOST, 0)) as server:
        # 10.0.2.2 is what QEMU calls this computer.
        networked.channel("guest").run(f"timeout 3 nc 10.0.2.2 {server.getsockname()[1]} </dev/null")
        server.settimeout(0.5)
        with pytest.raises(TimeoutError):
            server.accept()


@needs_ssh
def test_a_machine_that_is_gone_ends_the_wait(networked: Machine) -> None:
    with Ssh(networked, "guest") as ssh:
        networked.end()
        with pytest.raises(SshError, match="guest: SSH"):
            ssh.run("sleep 1000")


def test_a_machine_without_a_network_says_so(spec: MachineSpec, accel: Accel) -> None:
    with pytest.raises(UsageError, match="--kernel reference-ssh"), Ssh(Machine(spec, accel), "guest"):
        pass
