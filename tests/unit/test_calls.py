# SPDX-License-Identifier: MIT
"""System calls as text: the guest's program, run on this computer, and the reading of what it says."""

import re
import subprocess
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from harness.build import initramfs
from harness.errors import HarnessError
from harness.multikernel import calls


@pytest.fixture(scope="module")
def kernel(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Stands for a guest: runs the guest's program on this computer's kernel."""
    program = tmp_path_factory.mktemp("guest") / "mkctl"
    program.write_bytes(initramfs.compile_tool("mkctl", initramfs.tool_sources()["mkctl"]))
    program.chmod(0o755)

    def run(command: str, *, timeout: float = 10) -> str:
        command = re.sub(r"^mkctl", str(program), command)
        done = subprocess.run(["sh", "-c", command], capture_output=True, text=True, timeout=60, check=False)
        return done.stdout.strip()

    return SimpleNamespace(run=run, factor=1.0)


@pytest.mark.parametrize(
    ("line", "error"),
    [
        ("rmdir s:/nowhere", "ENOENT"),
        ("mkdir null 0755", "EFAULT"),
        ("mkdir unmapped 0755", "EFAULT"),
        ("mkdir kernel 0755", "EFAULT"),
        ("mkdir noncanonical 0755", "EFAULT"),
        ("mkdir raw:/tmp/no-nul-behind 0755", "EFAULT"),
        ("write fd:/proc/version hex:00 1", "EBADF"),
        ("read fd:/nowhere out:4 4", "ENOENT"),
        ("read fd:/proc/version unmapped 5", "EFAULT"),
        ("99999 1 2 3", "ENOSYS"),
    ],
)
def test_refused_call(kernel: Any, line: str, error: str) -> None:
    assert calls.call(kernel, line).error == error


def test_what_a_call_reads(kernel: Any) -> None:
    outcome = calls.call(kernel, "read fd:/proc/version out:5 5").require()
    assert (outcome.result, outcome.out) == (5, b"Linux")


def test_bytes_reach_a_file(kernel: Any, tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(b"........")
    lines = [f"pwrite fdw:{file} hex:0a0b0c 3 1", f"pwrite fdw:{file} i32:-2 4 4"]
    assert all(outcome.ok for outcome in calls.calls(kernel, lines))
    assert file.read_bytes() == b".\x0a\x0b\x0c\xfe\xff\xff\xff"


def test_call_that_hangs_is_an_outcome(kernel: Any) -> None:
    pause = "34"
    outcomes = calls.calls(kernel, [pause, "rmdir s:/nowhere"], limit=1)
    assert [outcome.error for outcome in outcomes] == ["hung", "ENOENT"]


def test_call_that_is_killed_is_an_outcome(kernel: Any) -> None:
    munmap_everything = "11 0 0x7ffffffff000"
    assert calls.call(kernel, munmap_everything).error == "killed"


def test_bad_line_is_an_error(kernel: Any) -> None:
    with pytest.raises(HarnessError, match="is not one"):
        calls.call(kernel, "mkdir nonsense")


def test_user_without_capabilities(kernel: Any) -> None:
    assert calls.call(kernel, "uid:1000 reboot 0xfee1dead 672274793 0x4D4B4C49 i32:1").error == "EPERM"


def test_race_counts_every_step(kernel: Any, tmp_path: Path) -> None:
    folder = tmp_path / "contended"
    loops = [f"mkdir s:{folder} 0755; rmdir s:{folder}", f"rmdir s:{folder}"]
    steps = calls.race(kernel, loops, seed=7, seconds=0.5)
    assert [step.call for step in steps] == [
        f"mkdir s:{folder} 0755",
        f"rmdir s:{folder}",
        f"rmdir s:{folder}",
    ]
    made, *removed = (step.ended.get("", 0) for step in steps)
    assert made > 0
    assert made - sum(removed) == folder.exists()


@pytest.mark.parametrize("value", ["", "plain", "a b", 'quo"te', "nul-free ü", "per%cent", "semi;colon\n"])
def test_text_survives(kernel: Any, tmp_path: Path, value: str) -> None:
    argument = calls.text(value)
    assert " " not in argument
    target = tmp_path / "link"
    calls.call(kernel, f"symlink {argument} s:{target}")
    if value:
        assert str(target.readlink()) == value


def test_a_holder_keeps_what_its_calls_open(kernel: Any, tmp_path: Path) -> None:
    holder = calls.Holder(kernel, str(tmp_path / "hold"))
    number = holder.call("memfd_create s:mine 0").require().result
    told, read = holder.calls([f"pwrite {number} raw:kept 4 0", f"pread {number} out:9 9 0"])
    assert (told.result, read.out) == (4, b"kept")
    # FIONREAD fills an int, and returns 0.
    answer = holder.call(f"ioctl {number} 0x541b io:ffffffff").require()
    assert answer.out == (4).to_bytes(4, "little")
    assert Path(f"/proc/{holder.pid}/fd/{number}").exists()
    holder.end()
    assert not Path(f"/proc/{holder.pid}").exists()


def test_a_holder_says_which_line_is_no_call(kernel: Any, tmp_path: Path) -> None:
    holder = calls.Holder(kernel, str(tmp_path / "hold"))
    with pytest.raises(HarnessError, match="rubbish"):
        holder.call("rubbish")
