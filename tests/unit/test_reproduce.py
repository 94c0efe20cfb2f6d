# SPDX-License-Identifier: MIT
"""A kept failure as text to mail: narrow, plain, small, and its script is one that bash and gcc take."""

import os
import re
import subprocess
from pathlib import Path

import pytest

from harness import failure
from harness.build import store
from harness.errors import UsageError
from harness.failure import Failure
from harness.report import byhand, reproduce
from harness.vm import steps
from harness.vm.steps import Steps, ended

QEMU = (
    "/usr/bin/qemu-system-x86_64 -no-user-config -nodefaults -display none -machine pc,memory-backend=ram"
    " -accel tcg,thread=multi -cpu qemu64 -smp 4 -m 2048M"
    " -object memory-backend-file,id=ram,size=2048M,mem-path=/proc/self/fd/7,share=off -S -incoming defer"
    " -action reboot=shutdown,shutdown=pause -rtc base=utc,clock=vm"
    " -chardev socket,id=qmp,fd=8 -mon chardev=qmp,mode=control"
    " -chardev pipe,id=port0,path=/tmp/lines-x/alpha -device isa-serial,chardev=port0,index=0,irq=4"
    " -chardev pipe,id=port1,path=/tmp/lines-x/alpha.agent -device isa-serial,chardev=port1,index=1"
    " -chardev pipe,id=port2,path=/tmp/lines-x/host -device isa-serial,chardev=port2,index=2"
    " -chardev pipe,id=port3,path=/tmp/lines-x/host.agent -device isa-serial,chardev=port3,index=3"
    " -kernel /store/bzImage -append 'console=ttyS2,115200 mkh.name=host "
    + "memmap=1M@2M "
    * 9
    + "memmap=512M$0x40000000'"
    " -initrd /store/host-initrd.cpio"
)
LONG = "mkctl load-file /boot/bzImage /boot/initrd '" + "memmap=16M@0x40000000 " * 12 + "' 0x10100"


def done() -> Steps:
    made = Steps()
    ended(made.run("host", "mkctl heartbeat /run/heartbeat 10"), "0")
    made.put("host", "/run/tree.dtb", b"\xd0\x0d\xfe\xed" * 50)
    ended(made.run("host", "mkctl write-once /run/tree.dtb /sys/fs/multikernel/device_tree"), "0")
    ended(made.run("host", LONG), "0", b"loaded=/boot/bzImage\n")
    ended(made.run("host", "mkctl calls 5 <<'END'\nreboot 0xfee1dead 672274793 0x4d4b4c49 i32:1\nEND"), "0")
    for _ in range(100):
        ended(made.run("host", "cat status"), "0", b"\x1b[31mactive")
    ended(made.run("alpha", "echo '1 0x4000 00' > /proc/mkmsg/send"), "1", b"sh: write error")
    made.typed("bravo", "beat")
    made.outside("NMI on all vCPUs")
    made.outside("bit 3 of the byte at 0x1000 of RAM is flipped")
    ended(made.run("host", "echo it ends in =>"), "no end in 20 s")
    return made


@pytest.fixture
def kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Failure:
    monkeypatch.setenv("MKHARNESS_CACHE", str(tmp_path))
    told = Failure(
        test="tests/conformance/starting/test_it.py::test_starts[x y]",
        ended=1_800_000_000.0,
        why="it should have answered, and was silent",
        claim="a spawned kernel answers " * 6,
        source="RFC v2 08/16",
        kernel="reference",
        digest="0123456789abcdef0123",
        release="7.3.4",
        series="fedcba",
        source_tree="linux-source-7.3",
        qemu=QEMU,
        explanation="\n".join(f"line {n} " + "e\u0301" * 60 for n in range(900)),
        commands={"this test on this build": ".venv/bin/pytest " + "--option value " * 12},
    )
    consoles = "".join(f"{n:8.2f} host | " + "x" * 200 + "\x1b[2J\n" for n in range(2000))
    return failure.keep(told, {reproduce.STEPS: steps.to_json(done()), failure.CONSOLES: consoles})


def test_the_text_is_plain_narrow_and_small(kept: Failure) -> None:
    text = reproduce.text(kept)
    assert len(text.encode("ascii")) < 100_000
    assert not set(text) - {chr(c) for c in range(32, 127)} - {"\n", "\t"}
    assert [line for line in text.splitlines() if len(line) > 78] == []


def test_the_text_tells_claim_kernel_configuration_commands_and_consoles(kept: Failure) -> None:
    text = reproduce.text(kept)
    for told in (
        "RFC v2 08/16",
        "it should have answered",
        "Linux 7.3.4",
        "fedcba",
        "make tinyconfig",
        "SMP=y",
        "this test on this build:\n    .venv/bin/pytest",
        "\\x1b[2J",
        "lines left out",
    ):
        assert told in text, told


def test_the_configuration_is_told_as_what_differs_from_the_defaults(kept: Failure) -> None:
    entry = store.folder() / kept.digest
    entry.mkdir(parents=True)
    for name in store.FILES:
        (entry / name).write_bytes(b"")
    store.write_meta(entry, store.Meta("reference", "linux-source-7.3"), "7.3.4")
    saved = "".join(f"CONFIG_OF_OURS_{n}=y\n" for n in range(300)) + "# CONFIG_SWAP is not set\n"
    (entry / store.DEFCONFIG).write_text(saved)
    text = reproduce.text(kept)
    assert len(text.encode("ascii")) < 100_000
    assert "make olddefconfig" in text
    assert "make tinyconfig" not in text
    _, _, rest = text.partition(f"{reproduce.BEGIN_CONFIG}\n")
    assert rest.partition(reproduce.END_CONFIG)[0] == saved


def test_the_script_is_one_that_bash_reads_and_says_what_was_done(kept: Failure, tmp_path: Path) -> None:
    script = reproduce.script(kept)
    assert script in reproduce.text(kept)
    subprocess.run(["bash", "-n"], input=script, text=True, check=True)
    assert "-incoming" not in script
    assert "heartbeat" not in re.sub(r"(?s)<<'END-OF-FILE'.*?END-OF-FILE", "", script)
    assert "step alpha 1 <<" in script
    assert f"step host 0 {byhand.TIMES} <<" in script
    assert "typed bravo beat" in script
    assert "outside nmi" in script
    assert "# from outside: bit 3" in script
    assert "step host no-end-in-20-s" in script
    assert "mkmsg_api_reference.c" in script
    assert "mkmsg_api_v1.c" not in script


def test_the_script_hands_the_guests_what_mkharness_did(kept: Failure, tmp_path: Path) -> None:
    """Run all of the script up to the machine; the step's files are what the harness ran, byte for byte."""
    head, _, _ = reproduce.script(kept).partition("# ---- the machine")
    # No kernel's tree is here to build a module in.
    head = re.sub(r"(?m)^make -s -C.*\n^cp mkmsg/mkmsg.ko.*$", "", head)
    for name in ("bzImage", "tree"):
        (tmp_path / name).touch()
    head = head.replace('cd "$(mktemp -d /tmp/repeat-XXXX)"', f'cd "{tmp_path}"')
    file = tmp_path / "head.sh"
    file.write_text(head + "\ndeclare -p plan\n")
    command = ["bash", str(file), str(tmp_path / "bzImage"), str(tmp_path / "tree")]

    def run(busybox: Path) -> subprocess.CompletedProcess[str]:
        environment = {**os.environ, "BUSYBOX": str(busybox)}
        return subprocess.run(command, capture_output=True, text=True, check=False, env=environment)

    without = run(tmp_path / "none")
    assert (without.returncode, without.stdout) == (2, "No busybox: say BUSYBOX=FILE, a static one.\n")
    # It is packed for the guests, not run.
    ran = run(Path("/bin/true"))
    assert ran.returncode == 0, ran.stderr
    files = (tmp_path / "base/s").glob("*[0-9]")
    found = [one.read_text() for one in files]
    assert f"{LONG}\n" in found
    assert "echo it ends in => \n" in found
    assert (tmp_path / "base/s/1.data").read_bytes() == b"\xd0\x0d\xfe\xed" * 50
    usage = subprocess.run([tmp_path / "base/bin/mkctl"], capture_output=True, text=True, check=False).stderr
    assert "mkctl load-file" in usage
    assert "mkctl calls" in usage
    assert "mkctl race" in usage, "it is in the same file"
    assert "mkctl heartbeat" not in usage
    assert "typed bravo beat" in ran.stdout


def test_the_kernel_command_line_is_what_it_was(kept: Failure) -> None:
    (lines,) = re.findall(r'(?s)^cmdline="\\\n.*?"$', reproduce.script(kept), re.MULTILINE)
    said = subprocess.run(
        ["bash", "-c", f'{lines}; echo "$cmdline"'], capture_output=True, text=True, check=True
    )
    assert f"-append '{said.stdout.strip()}'" in QEMU


def test_without_steps_the_text_says_so(kept: Failure) -> None:
    (kept.folder / reproduce.STEPS).unlink()
    assert "was not kept" in reproduce.text(kept)


def test_which_failure_of_a_report_is_asked_for(tmp_path: Path) -> None:
    from test_report_record import every_outcome

    from harness.cli_reproduce import reproduce as command
    from harness.report import folder

    folder.write(tmp_path, every_outcome())
    with pytest.raises(UsageError, match="has 3 failures"):
        command(str(tmp_path / folder.JSON))


def test_a_report_without_a_kept_failure_tells_what_it_knows(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from test_report_record import every_outcome

    from harness.cli_reproduce import reproduce as command
    from harness.report import folder

    monkeypatch.setenv("MKHARNESS_CACHE", str(tmp_path / "cache"))
    folder.write(tmp_path, every_outcome())
    assert command(str(tmp_path / folder.JSON), test="test_fails") == 0
    said = capsys.readouterr().out
    assert "a post" in said
    assert "host: it broke" in said
    assert "was not kept" in said
