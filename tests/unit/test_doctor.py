# SPDX-License-Identifier: MIT
"""`mkh doctor` tries things, and names the command that mends what does not work."""

import json
import os
import subprocess
import sys

import pytest

from harness import needs, paths


def doctor(before: str = "", **more: str) -> tuple[int, dict[str, dict[str, str]]]:
    """Run it in a shell that did ``before``; return the exit status and the findings by name."""
    script = f"{before}\n'{sys.executable}' -c 'from harness.cli import main; main()' doctor --json"
    done = subprocess.run(
        ["bash", "-c", script], capture_output=True, text=True, check=False, env=os.environ | more
    )
    return done.returncode, {found["what"]: found for found in json.loads(done.stdout)}


def test_here_is_all_that_setup_installs():
    _, found = doctor()
    for need in needs.read():
        if not need.optional:
            assert found[need.package]["state"] == "good"
    assert found["python"]["state"] == found["python: pytest"]["state"] == "good"


def test_what_is_there_and_does_not_work_is_missing(tmp_path):
    programs = {"bc": "bc", "flex": "flex", "qemu-system-x86_64": "qemu-system-x86", "setpriv": "util-linux"}
    for program in programs:
        (tmp_path / program).write_text(f"#!/bin/sh\necho '{program} is out of order' >&2\nexit 3\n")
        (tmp_path / program).chmod(0o755)
    status, found = doctor(PATH=f"{tmp_path}:{os.environ['PATH']}")
    assert status == 1
    assert {what for what, finding in found.items() if finding["state"] == "missing"} >= {*programs.values()}
    assert found["gcc"]["state"] == "good"
    for program, package in programs.items():
        assert f"{program} is out of order" in found[package]["why"]
        assert found[package]["command"].endswith(f"install -y --no-install-recommends {package}")


def test_a_cache_and_a_limit_that_will_not_do_are_missing():
    status, found = doctor("ulimit -n 200", MKHARNESS_CACHE="/proc/nothing")
    assert status == 1
    assert found["cache /proc/nothing"]["state"] == found["limits"]["state"] == "missing"
    assert "MKHARNESS_CACHE" in found["cache /proc/nothing"]["command"]
    assert found["limits"]["command"].startswith("ulimit -n ")


def test_setup_installs_what_doctor_needs():
    """setup.sh has no list of its own: what it would install is what is not optional."""
    setup = paths.CHECKOUT / "harness" / "setup.sh"
    line = next(line for line in setup.read_text().splitlines() if line.startswith("packages="))
    done = subprocess.run(
        ["sh", "-c", f"{line}\necho $packages", str(setup)], capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == [need.package for need in needs.read() if not need.optional]
    assert {"gcc", "qemu-system-x86"} <= set(done.stdout.split())


def test_a_list_that_is_broken_is_refused(tmp_path):
    file = tmp_path / "needs.txt"
    file.write_text("gcc: compiles\ngcc --version\n")
    with pytest.raises(ValueError, match="no package and its trial"):
        list(needs.read(file))
