# SPDX-License-Identifier: MIT
"""The payload compiles to the same bytes each time, loaders take them, and what it says is understood."""

from __future__ import annotations

import struct
import subprocess

import pytest

from harness import paths
from harness.build import payload
from harness.build.guest import guest_inputs
from harness.definition import load_definition
from harness.errors import HarnessError
from harness.model import Region
from harness.multikernel.payload import parse_boot

SAID = """\
payload: started image=0x501dc000 end=0x501f9000 boot_params=0x501fa000 apic_id=0x3 x2apic=0x0
payload: cmdline console=ttyS0,115200 a=payload: b
payload: e820 start=0x0 size=0x1000 type=0x2
payload: e820 start=0x40200000 size=0x10000000 type=0x1
payload: initrd start=0x4fe98000 size=0x343c00
payload: platform subarch=0x5 rsdp=0x0
payload: setup_data address=0x501fa0d0 type=0x4d4b length=0x150
payload: instance version=0x1 id=0x1 slot=0x1 start=0x40200000 size=0x10000000
payload: granted apic_id=0x3
payload: granted apic_id=0x5
payload: ready
"""


@pytest.fixture(scope="module")
def image() -> bytes:
    return payload.compile_payload(payload.sources())


def test_compiles_without_a_warning_to_the_same_bytes(image, monkeypatch):
    monkeypatch.setattr(payload, "CFLAGS", (*payload.CFLAGS, "-Werror"))
    assert payload.compile_payload(payload.sources()) == image
    assert str(paths.CHECKOUT).encode() not in image
    assert len(image) < 32768, "it is to be small"


def test_is_what_kexec_file_load_takes_for_a_bzimage(image):
    """By the same fields as the kernel's bzImage64_probe() and bzImage64_load()."""
    assert image[0x202:0x206] == b"HdrS"
    assert struct.unpack_from("<H", image, 0x1FE) == (0xAA55,)
    version, loadflags, xloadflags = (
        *struct.unpack_from("<H", image, 0x206),
        image[0x211],
        *struct.unpack_from("<H", image, 0x236),
    )
    assert version >= 0x20C
    assert loadflags & 1, "LOADED_HIGH"
    assert xloadflags & 3 == 3, "64-bit entry, anywhere"
    assert 0x202 + image[0x201] == 0x26C, "the loader copies the header up to here"
    code = (image[0x1F1] + 1) * 512
    (alignment,) = struct.unpack_from("<I", image, 0x230)
    (memory,) = struct.unpack_from("<I", image, 0x260)
    assert code % alignment == 0, "what is page-aligned in the file must be so in memory"
    assert len(image) - code < memory < 1 << 20
    assert image[code + 0x200] == 0xFA, "the 64-bit entry begins with cli"


def test_is_what_load_v1_takes_for_elf(image, tmp_path):
    (tmp_path / "payload").write_bytes(image)
    told = subprocess.run(
        ["readelf", "-hlW", tmp_path / "payload"], capture_output=True, text=True, check=True
    )
    assert not told.stderr
    load = next(line.split() for line in told.stdout.splitlines() if line.split()[:1] == ["LOAD"])
    offset, _, paddr, in_file, in_memory = (int(word, 16) for word in load[1:6])
    assert offset + in_file == len(image)
    assert in_memory == struct.unpack_from("<I", image, 0x260)[0]
    assert f"{paddr + 0x200:#x}" in told.stdout, "the entry"


def test_its_sources_are_inputs_of_a_build(monkeypatch, tmp_path):
    definition = load_definition("reference")
    before = guest_inputs(definition, b"box", {}, [])
    names = {f"initramfs/payload/{file.name}" for file in payload.sources()}
    assert {"initramfs/payload/main.c", "initramfs/payload/payload.lds"} <= names <= before.keys()
    monkeypatch.setattr(payload, "sources", lambda: ())
    assert guest_inputs(definition, b"box", {}, []).keys() == before.keys() - names


def test_compile_error_is_shown(tmp_path):
    (tmp_path / "x.c").write_text("int x = y;\n")
    with pytest.raises(HarnessError, match="payload does not compile") as caught:
        payload.compile_payload([tmp_path / "x.c"])
    assert "x.c:1" in caught.value.details


def test_what_it_says_at_its_start_is_understood():
    boot = parse_boot("noise\n" + SAID)
    assert boot.image == Region(0x501DC000, 0x1D000)
    assert boot.arguments == "console=ttyS0,115200 a=payload: b"
    assert boot.e820 == ((Region(0, 0x1000), 2), (Region(0x40200000, 0x10000000), 1))
    assert boot.ram == (Region(0x40200000, 0x10000000),)
    assert boot.initrd == Region(0x4FE98000, 0x343C00)
    assert boot.granted == (3, 5)
    assert boot.setup_data == ((0x501FA0D0, 0x4D4B),)
    assert boot.told["size"] == 0x10000000


@pytest.mark.parametrize("word", ["started", "initrd", "platform"])
def test_a_line_that_is_missing_is_an_error(word):
    text = "\n".join(line for line in SAID.splitlines() if not line.startswith(f"payload: {word}"))
    with pytest.raises(HarnessError, match="not understood") as caught:
        parse_boot(text)
    assert "payload: ready" in caught.value.details
