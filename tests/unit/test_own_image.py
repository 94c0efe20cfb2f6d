# SPDX-License-Identifier: MIT
"""An image built elsewhere is read by its header, and what is none is refused."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import shutil
import subprocess
from pathlib import Path

import pytest
from images import bzimage, program
from rich.console import Console

from harness.build import image, own, store
from harness.errors import HarnessError, UsageError
from harness.progress import Progress


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MKHARNESS_CACHE", str(tmp_path / "cache"))
    (tmp_path / "cache/guest").mkdir(parents=True)
    (tmp_path / "cache/guest/busybox").write_text("busybox")
    return tmp_path / "cache"


@pytest.fixture
def progress() -> Progress:
    return Progress(Console(file=io.StringIO(), width=200))


@pytest.fixture(scope="module")
def elf(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A program that says what the reference series says."""
    return program(tmp_path_factory.mktemp("elf"), own.MARKS[0][1].decode())


SIZE = b"\1\2\3\4"
"""What the kernel's build puts behind a stream: its length unpacked, which is none of the stream's."""
PACKERS = {
    "gzip": gzip.compress,
    "xz": lambda data: lzma.compress(data, lzma.FORMAT_XZ) + SIZE,
    "lzma": lambda data: lzma.compress(data, lzma.FORMAT_ALONE) + SIZE,
    "bzip2": lambda data: bz2.compress(data) + SIZE,
    "none": lambda data: data,
}


@pytest.mark.parametrize("how", PACKERS)
def test_kernel_is_found_in_the_image(tmp_path, elf, how):
    (tmp_path / "bzImage").write_bytes(bzimage(PACKERS[how](elf)))
    found = image.read_image(tmp_path / "bzImage")
    assert found.release == "7.3.4-mine"
    assert image.unpacked(found.packed)[: len(elf)] == elf


@pytest.mark.parametrize("packer", [["zstd", "-qc"], ["lz4", "-lqc"], ["lzop", "-qc"]])
def test_kernel_packed_by_programs(packer, elf):
    if shutil.which(packer[0]) is None:
        pytest.skip(f"{packer[0]} is not installed")
    packed = subprocess.run(packer, input=elf, capture_output=True, check=True).stdout
    assert image.unpacked(packed + SIZE) == elf


def test_image_is_ready_to_boot_and_is_reused(tmp_path, elf, progress):
    (tmp_path / "bzImage").write_bytes(bzimage(gzip.compress(elf)))
    built = own.own_build(tmp_path / "bzImage", None, None, progress)
    assert (built.version, built.reused, built.definition.dialect) == ("7.3.4-mine", False, "reference")
    assert built.bzimage.read_bytes() == (tmp_path / "bzImage").read_bytes()
    assert built.vmlinux.read_bytes() == elf
    assert built.bzimage.read_bytes() in built.host_initrd.read_bytes()
    assert built.definition.modules == ()
    assert "messages" not in built.definition.expects
    assert "spawn" in built.definition.expects
    assert "no faults or messages" in progress.console.file.getvalue()
    assert own.own_build(tmp_path / "bzImage", None, "v2", progress).digest != built.digest
    again = own.own_build(tmp_path / "bzImage", None, None, progress)
    assert (again.reused, again.folder) == (True, built.folder)
    assert again.folder in store.entries()


def test_vmlinux_of_another_build_is_refused(tmp_path, elf, progress):
    (tmp_path / "bzImage").write_bytes(bzimage(gzip.compress(elf)))
    (tmp_path / "vmlinux").write_bytes(elf)
    assert (
        own.own_build(tmp_path / "bzImage", tmp_path / "vmlinux", None, progress).vmlinux.read_bytes() == elf
    )
    (tmp_path / "vmlinux").write_bytes(elf.replace(b"memory pool", b"memory loop"))
    with pytest.raises(UsageError, match="was not packed from"):
        own.own_build(tmp_path / "bzImage", tmp_path / "vmlinux", None, progress)


def test_elf_that_a_dialect_loads_is_in_the_hosts_archive(tmp_path, elf, progress):
    (tmp_path / "bzImage").write_bytes(bzimage(gzip.compress(elf)))
    built = own.own_build(tmp_path / "bzImage", None, "v1", progress)
    assert b"boot/vmlinux" in built.host_initrd.read_bytes()


def test_configuration_inside_is_shown():
    packed = b"x IKCFG_ST" + gzip.compress(b"CONFIG_SMP=y\n") + b"IKCFG_ED y"
    assert own.config_of(packed) == b"CONFIG_SMP=y\n"
    assert own.config_of(b"IKCFG_STnothing").startswith(b"#")


def test_image_of_no_known_series_asks_for_the_dialect():
    with pytest.raises(UsageError, match="any series that is known") as caught:
        own.dialect_of(b"\x7fELF plain")
    assert "--dialect" in caught.value.advice
    assert "reference" in caught.value.advice


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"", "no HdrS"),
        (b"\x7fELF" + bytes(2000), "vmlinux"),
        (bytes(0x202) + b"HdrS", "cut off"),
        (bzimage(b"x" * 5000)[:3000], "cut off"),
        (bzimage(b"x", version=b"\0"), "cut off"),
    ],
)
def test_what_is_no_image_is_refused(tmp_path, progress, cache, content, why):
    (tmp_path / "bzImage").write_bytes(content)
    with pytest.raises(UsageError, match="no bzImage") as caught:
        own.own_build(tmp_path / "bzImage", None, "v1", progress)
    assert why in str(caught.value)
    assert not (cache / "store").exists()


@pytest.mark.parametrize(
    "packed",
    [gzip.compress(b"no ELF"), gzip.compress(b"x" * 999)[:30], b"BZhello", b"?"],
    ids=["no ELF", "cut short", "no bzip2", "nothing known"],
)
def test_kernel_that_cannot_be_unpacked_is_asked_for(packed):
    with pytest.raises(HarnessError) as caught:
        image.unpacked(packed)
    assert "--vmlinux" in caught.value.advice


def test_files_that_are_not_there_are_named(tmp_path, elf, progress):
    with pytest.raises(UsageError, match="nothing"):
        own.own_build(tmp_path / "nothing", None, None, progress)
    (tmp_path / "bzImage").write_bytes(bzimage(gzip.compress(elf)))
    (tmp_path / "text").write_text("text")
    with pytest.raises(UsageError, match="missing"):
        own.own_build(tmp_path / "bzImage", tmp_path / "missing", None, progress)
    with pytest.raises(UsageError, match="no ELF"):
        own.own_build(tmp_path / "bzImage", tmp_path / "text", None, progress)
    with pytest.raises(UsageError, match="no dialect 'v9'"):
        own.own_build(tmp_path / "bzImage", None, "v9", progress)
