# SPDX-License-Identifier: MIT
"""The guests' archives have the right content, and always the same bytes."""

from __future__ import annotations

import shutil
import stat
import subprocess
from pathlib import Path

import pytest

from harness import paths
from harness.build import extra, initramfs
from harness.errors import HarnessError, UsageError


def read(archive: bytes) -> dict[str, tuple[int, bytes, tuple[int, int]]]:
    """Read newc archives one after another, as the kernel does: name to mode, content, device."""
    found = {}
    at = 0
    while at < len(archive):
        if archive[at] == 0:
            at += 4 - at % 4
            continue
        assert archive[at : at + 6] == b"070701"
        fields = [int(archive[at + 6 + 8 * i : at + 14 + 8 * i], 16) for i in range(13)]
        mode, uid, gid, mtime, size = fields[1], fields[2], fields[3], fields[5], fields[6]
        name_at = at + 110
        name = archive[name_at : name_at + fields[11] - 1].decode()
        data_at = name_at + fields[11]
        data_at += -data_at % 4
        at = data_at + size + -size % 4
        assert (uid, gid, mtime) == (0, 0, 0)
        if name != "TRAILER!!!":
            found[name] = (mode, archive[data_at : data_at + size], (fields[9], fields[10]))
    return found


def test_content_modes_and_folders():
    found = read(initramfs.archive({"bin/b": b"B", "init": b"#!x\n", "a/b/c": b""}, {"dev/null": (1, 3)}))
    assert list(found) == sorted(found), "a folder must come before what is in it"
    assert set(found) == {"bin", "bin/b", "init", "a", "a/b", "a/b/c", "dev", "dev/null"}
    assert found["bin/b"][:2] == (stat.S_IFREG | 0o755, b"B")
    assert found["a/b"][0] == stat.S_IFDIR | 0o755
    assert (found["dev/null"][0], found["dev/null"][2]) == (stat.S_IFCHR | 0o600, (1, 3))


def test_same_content_gives_same_bytes():
    one = initramfs.archive({"a": b"1", "b": b"2"})
    assert one == initramfs.archive({"b": b"2", "a": b"1"})
    assert one != initramfs.archive({"b": b"2", "a": b"3"})


@pytest.mark.skipif(shutil.which("cpio") is None, reason="cpio is not installed")
def test_cpio_reads_it(tmp_path):
    text = initramfs.archive({"bin/b": b"B" * 1001, "init": b"x"})
    listed = subprocess.run(["cpio", "-t", "--quiet"], input=text, capture_output=True, check=True)
    assert listed.stdout.split() == [b"bin", b"bin/b", b"init"]


def test_host_has_all_of_the_guest_and_the_kernel_to_spawn():
    base = initramfs.base_archive({"mkmsg": b"ko"}, {"mkctl": b"ctl", "mkagent": b"ag"}, b"box")
    found = read(initramfs.host_archive(base, b"kernel", None, b"small"))
    assert found["boot/bzImage"][1] == b"kernel"
    assert found["boot/payload"][1] == b"small"
    assert found["boot/initrd"][1] == base
    assert found["lib/modules/mkmsg.ko"][1] == b"ko"
    assert {"init", "bin/busybox", "bin/mkctl", "bin/mkagent", "dev/console"} <= set(found)
    assert "boot/vmlinux" not in found
    assert read(initramfs.host_archive(base, b"kernel", b"elf", b"small"))["boot/vmlinux"][1] == b"elf"


def test_a_definitions_own_files_are_there_with_their_modes():
    more = {"etc/motd": extra.File(b"hello", 0o640), "bin/mine": extra.File(b"x", 0o4755)}
    found = read(initramfs.base_archive({}, {"mkctl": b"ctl"}, b"box", more))
    assert found["etc/motd"][:2] == (stat.S_IFREG | 0o640, b"hello")
    assert found["bin/mine"][:2] == (stat.S_IFREG | 0o4755, b"x")
    assert found["bin/mkctl"][0] == stat.S_IFREG | 0o755


@pytest.mark.parametrize(
    "places", [["init"], ["bin"], ["init/x"], ["boot/bzImage"], ["dev/null"], ["etc", "etc/motd"]]
)
def test_a_file_in_the_way_of_another_is_refused(places):
    with pytest.raises(UsageError, match="in the way"):
        initramfs.base_archive({}, {}, b"box", {place: extra.File(b"", 0o644) for place in places})


def test_init_loads_the_modules_in_order():
    text = initramfs.init_script(["second", "first"]).decode()
    assert text.index("insmod /lib/modules/second.ko") < text.index("insmod /lib/modules/first.ko")
    assert text.startswith("#!")
    assert "{" + "%" not in text
    subprocess.run(["sh", "-n"], input=text.encode(), check=True)


def test_broken_template_is_named(tmp_path):
    (tmp_path / "init.j2").write_text("{{ missing }}")
    with pytest.raises(HarnessError, match=r"init\.j2"):
        initramfs.init_script([], tmp_path / "init.j2")


@pytest.mark.parametrize("name", list(initramfs.TOOLS))
def test_guest_programs_compile_without_a_warning(name, monkeypatch):
    monkeypatch.setattr(initramfs, "CFLAGS", (*initramfs.CFLAGS, "-Werror"))
    program = initramfs.compile_tool(name, initramfs.tool_sources()[name])
    assert program == initramfs.compile_tool(name, initramfs.tool_sources()[name])
    assert b"/lib64/ld-linux" not in program, "a guest has no dynamic linker"
    assert str(paths.CHECKOUT).encode() not in program


def test_compile_error_is_shown(tmp_path: Path):
    (tmp_path / "x.c").write_text("int main(void) { return y; }\n")
    with pytest.raises(HarnessError, match="mkx does not compile") as caught:
        initramfs.compile_tool("mkx", [tmp_path / "x.c"])
    assert "x.c:1" in caught.value.details
