# SPDX-License-Identifier: MIT
"""What SSH into a guest is made of: the server's files, keys in three formats, the network card."""

from __future__ import annotations

import io
import shutil
from dataclasses import replace
from pathlib import Path

import paramiko
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from harness.build import sshd
from harness.definition import load_definition
from harness.errors import HarnessError
from harness.vm import ssh
from harness.vm.accel import Accel
from harness.vm.spec import MachineSpec, arguments

SPEC = MachineSpec(Path("kernel"), None, "", 1, 1, "pc", "qemu64", ())
TCG = Accel("tcg", "tcg", "", 1.0)


def test_a_network_only_where_it_is_asked_for() -> None:
    assert not load_definition("reference").ssh
    assert load_definition("reference-ssh").ssh
    assert "-netdev" not in arguments(SPEC, TCG, 3, [], 4)
    line = " ".join(arguments(replace(SPEC, network=True), TCG, 3, [], 4))
    assert "-netdev user,id=ssh,restrict=on" in line
    assert "hostfwd" not in line, "the port is forwarded while SSH is open, of a fork too"


def test_the_same_key_for_paramiko_and_dropbear() -> None:
    key = Ed25519PrivateKey.generate()
    read = paramiko.Ed25519Key(file_obj=io.StringIO(ssh._pem(key).decode()))
    assert read.asbytes() == ssh.public_key(key)
    head = b"\0\0\0\x0bssh-ed25519\0\0\0\x40"
    assert ssh.server_key(key) == head + key.private_bytes_raw() + key.public_key().public_bytes_raw()


def test_libraries_are_followed_to_the_last(tmp_path: Path) -> None:
    library = tmp_path / "lib/x86_64-linux-gnu"
    library.mkdir(parents=True)
    shutil.copyfile("/bin/sh", tmp_path / "dropbear")
    with pytest.raises(HarnessError, match=r"dropbear needs libc\.so\.6"):
        sshd.server_files(tmp_path)
    shutil.copyfile("/lib/x86_64-linux-gnu/libc.so.6", library / "libc-2.so")
    (library / "libc.so.6").symlink_to("libc-2.so")
    # A link that leads out of the package must not bring in what this computer has.
    (library / sshd.LOADER).symlink_to(f"/lib/x86_64-linux-gnu/{sshd.LOADER}")
    with pytest.raises(HarnessError, match="dropbear needs ld-linux"):
        sshd.server_files(tmp_path)
    (library / sshd.LOADER).unlink()
    shutil.copyfile(f"/lib/x86_64-linux-gnu/{sshd.LOADER}", library / sshd.LOADER)
    assert set(sshd.server_files(tmp_path)) == {
        "bin/dropbear",
        "lib/x86_64-linux-gnu/libc.so.6",
        f"lib64/{sshd.LOADER}",
    }
