# SPDX-License-Identifier: MIT
"""Core files of a file in a guest's place, and registers as QEMU prints them."""

from __future__ import annotations

import os
import struct
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from elftools.elf.elffile import ELFFile

from harness.errors import HarnessError
from harness.model import Region
from harness.vm import vmcore
from harness.vm.ram import Ram
from harness.vm.ram_layout import Layout
from harness.vm.ram_pages import PAGE
from harness.vm.registers import Segment, parse_registers

MIB = 1 << 20
REGIONS = (Region(0, 8 * MIB), Region(4 << 30, 8 * MIB))
INFO = b"OSRELEASE=7.3.4-test\nBUILD-ID=12\nPAGESIZE=4096\nNUMBER(phys_base)=4294967296\nKERNELOFFSET=0\n"
DUMP = """
CPU#0
RAX=0000000000000001 RBX=ffffffff8160a680 RCX=000000000000001f RDX=0000000000000000
RSI=0000000000000000 RDI=00000000000116e4 RBP=0000000000000000 RSP=ffffffff81603e20
R8 =0000000000000008 R9 =0000000000000000 R10=00000000000001e1 R11=ffff88801ec1e080
R12=0000000000000000 R13=0000000000000000 R14=0000000000000000 R15=000000000000000f
RIP=ffffffff812ab623 RFL=00000246 [---Z-P-] CPL=0 II=0 A20=1 SMM=0 HLT=1
ES =0000 0000000000000000 00000000 00000000
CS =0010 0000000000000000 ffffffff 00a09b00 DPL=0 CS64 [-RA]
SS =0018 0000000000000000 ffffffff 00c09300 DPL=0 DS   [-WA]
DS =0000 0000000000000000 00000000 00000000
FS =0000 0000000000000000 00000000 00000000
GS =0000 ffff88809d47b000 00000000 00000000
LDT=0000 0000000000000000 00000000 00008200 DPL=0 LDT
TR =0040 fffffe0000003000 00000067 00008900 DPL=0 TSS64-avl
GDT=     fffffe0000001000 0000007f
CR0=80050033 CR2=00007ffe88686e68 CR3=0000000001a7e000 CR4=000006b0
EFER=0000000000000d01
FPR0=0000000000000000 0000 FPR1=0000000000000000 0000
XMM00=0000000000000000 0000000000000000 XMM01=0000000000000000 0000000000000000

CPU#1
EAX=00000000 EBX=00000000 ECX=00000000 EDX=00000663
ESI=00000000 EDI=00000000 EBP=00000000 ESP=00000010
EIP=0000fff0 EFL=00000002 [-------] CPL=0 II=0 A20=1 SMM=0 HLT=0
ES =0000 00000000 0000ffff 00009300
CS =f000 ffff0000 0000ffff 00009b00
SS =0000 00000000 0000ffff 00009300
DS =0000 00000000 0000ffff 00009300
FS =0000 00000000 0000ffff 00009300
GS =0000 00000000 0000ffff 00009300
CR0=60000010 CR2=00000000 CR3=00000000 CR4=00000000
EFER=0000000000000000
"""


@pytest.fixture
def ram() -> Iterator[Ram]:
    with tempfile.TemporaryFile() as file:
        os.truncate(file.fileno(), 16 * MIB)
        # 5 near the 4th: one piece; the end of one region and the begin of the next: two.
        for page in (0, 4, 5, 100, 2047, 2048, 2050):
            os.pwrite(file.fileno(), f"page {page}".encode(), page * PAGE)
        os.pwrite(file.fileno(), INFO, 3000 * PAGE)
        os.pwrite(file.fileno(), INFO, 3100 * PAGE + 24)
        os.pwrite(file.fileno(), b"OSRELEASE=%s\n", 3200 * PAGE)
        yield Ram(file, Layout(REGIONS))


def test_registers_are_read_in_every_mode() -> None:
    first, second = parse_registers(DUMP)
    assert (first.index, second.index) == (0, 1)
    assert (first.halted, second.halted) == (True, False)
    assert (first["RAX"], first["R8"], first["R15"]) == (1, 8, 15)
    assert (first["RIP"], first["RFL"], first["CR3"]) == (0xFFFF_FFFF_812A_B623, 0x246, 0x1A7E000)
    assert (first["CR0"], first["CR4"], first["EFER"]) == (0x80050033, 0x6B0, 0xD01)
    assert first.segments["GS"] == Segment(0, 0xFFFF_8880_9D47_B000)
    assert first.segments["CS"] == Segment(0x10, 0)
    assert (second["RIP"], second["RDX"], second["RSP"]) == (0xFFF0, 0x663, 0x10)
    assert second.segments["CS"] == Segment(0xF000, 0xFFFF0000)


@pytest.mark.parametrize("text", ["", "Error", "CPU#0\nnothing", DUMP.replace("RIP=", "XIP=")])
def test_a_strange_register_dump_is_an_error(text: str) -> None:
    with pytest.raises(HarnessError, match="register dump"):
        parse_registers(text)


def test_each_kernels_vmcoreinfo_is_found_once(ram: Ram) -> None:
    (info,) = vmcore.find_vmcoreinfo(ram)
    assert (info.text, info.release, info.phys_base) == (INFO, "7.3.4-test", 4 << 30)
    assert info.address == (4 << 30) + (3000 - 2048) * PAGE
    assert not vmcore.find_vmcoreinfo(ram, [REGIONS[0]])
    unsigned = vmcore.VmcoreInfo(0, b"OSRELEASE=1\nNUMBER(phys_base)=18446744073692774400\n")
    assert unsigned.phys_base == -16 * MIB
    assert vmcore.VmcoreInfo(0, b"OSRELEASE=1\n").phys_base is None


@pytest.mark.parametrize("known", [True, False])
def test_a_core_file_holds_memory_and_registers(ram: Ram, tmp_path: Path, known: bool) -> None:
    info = vmcore.find_vmcoreinfo(ram)[0] if known else None
    path = tmp_path / "vmcore"
    vmcore.write_vmcore(ram, parse_registers(DUMP), path, info)
    with path.open("rb") as file:
        elf = ELFFile(file)
        assert (elf["e_type"], elf["e_machine"]) == ("ET_CORE", "EM_X86_64")
        note, *loads = elf.iter_segments()
        direct = [load for load in loads if load["p_vaddr"] < vmcore.KERNEL_MAP]
        places = [Region(load["p_paddr"], load["p_filesz"]) for load in direct]
        high = 4 << 30
        assert places[:3] == [
            Region(0, 6 * PAGE),
            Region(100 * PAGE, PAGE),
            Region(2047 * PAGE, PAGE),
        ]
        assert places[3] == Region(high, 3 * PAGE)
        for load in direct:
            assert load["p_vaddr"] == vmcore.DIRECT_MAP + load["p_paddr"]
            assert load.data() == ram.read(load["p_paddr"], load["p_filesz"])
        kernel = [load for load in loads if load["p_vaddr"] >= vmcore.KERNEL_MAP]
        assert [load["p_paddr"] for load in kernel] == ([r.start for r in places[3:]] if known else [])
        for load in kernel:
            assert load["p_vaddr"] == vmcore.KERNEL_MAP + load["p_paddr"] - high
            assert load.data() == ram.read(load["p_paddr"], load["p_filesz"])
        notes = list(note.iter_notes())
        assert [n["n_name"] for n in notes] == ["CORE", "CORE"] + ["VMCOREINFO"] * known
        status = notes[0]["n_descdata"]
        assert len(status) == 336
        assert struct.unpack_from("<27Q", status, 112)[0] == 15
        assert struct.unpack_from("<27Q", status, 112)[16] == 0xFFFF_FFFF_812A_B623
        assert not known or notes[-1]["n_descdata"] == INFO


def test_memory_without_a_touched_page_is_a_core_file(tmp_path: Path) -> None:
    with tempfile.TemporaryFile() as file:
        os.truncate(file.fileno(), MIB)
        vmcore.write_vmcore(Ram(file, Layout([Region(0, MIB)])), (), tmp_path / "vmcore")
    with (tmp_path / "vmcore").open("rb") as core:
        assert ELFFile(core).num_segments() == 1


def test_a_core_file_that_cannot_be_written_is_an_error(ram: Ram, tmp_path: Path) -> None:
    with pytest.raises(HarnessError, match="cannot be written: No such file"):
        vmcore.write_vmcore(ram, (), tmp_path / "no" / "vmcore")
