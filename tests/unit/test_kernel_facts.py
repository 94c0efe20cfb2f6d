# SPDX-License-Identifier: MIT
"""What kernels and QEMU print, read into facts: /proc files, heartbeats, messages, registers."""

import fdt
import pytest

from harness.definition import SpawnedKernel
from harness.errors import HarnessError
from harness.model import Region
from harness.multikernel.devicetree import instances_blob
from harness.multikernel.kernel import parse_apic_ids, parse_heartbeat, parse_iomem, usable_ram
from harness.multikernel.messaging import Hook, parse_hooks, parse_received
from harness.oracle.processors import processor_of
from harness.vm.registers import Registers

IOMEM = """\
00000000-00000fff : Reserved
00001000-0009fbff : System RAM
000f0000-000fffff : System ROM
00100000-3fffffff : System RAM
  01000000-017fffff : Kernel code
40000000-5fffffff : Multikernel Memory Pool
  40000000-4fffffff : mk-instance-1-alpha-region-0
"""


def test_iomem_lines_become_resources_with_depth():
    resources = parse_iomem(IOMEM)
    assert [r.region for r in resources if r.name == "System RAM"] == [
        Region.from_bounds(0x1000, 0x9FBFF),
        Region.from_bounds(0x100000, 0x3FFFFFFF),
    ]
    instance = next(r for r in resources if r.name == "mk-instance-1-alpha-region-0")
    assert (instance.depth, instance.region) == (1, Region(0x40000000, 0x10000000))


def test_ram_set_aside_inside_system_ram_is_not_the_hosts():
    nested = "00100000-5fffffff : System RAM\n  40000000-5fffffff : Multikernel Memory Pool\n"
    assert usable_ram(parse_iomem(nested)) == (Region.from_bounds(0x100000, 0x3FFFFFFF),)
    assert usable_ram(parse_iomem(IOMEM))[-1] == Region.from_bounds(0x100000, 0x3FFFFFFF)


def test_iomem_read_without_privilege_is_not_mistaken_for_facts():
    with pytest.raises(HarnessError, match="CAP_SYS_ADMIN"):
        parse_iomem("00000000-00000000 : System RAM\n00000000-00000000 : Reserved\n")


def test_iomem_refuses_other_text():
    with pytest.raises(HarnessError, match="not a line of /proc/iomem"):
        parse_iomem("cat: can't open '/proc/iomem'\n")


def test_apic_ids_are_by_logical_cpu():
    text = "processor\t: 0\napicid\t\t: 0\ninitial apicid\t: 9\n\nprocessor\t: 1\napicid\t\t: 4\n"
    assert parse_apic_ids(text) == {0: 0, 1: 4}


def test_cpuinfo_without_apic_ids_is_an_error():
    with pytest.raises(HarnessError, match="no processor"):
        parse_apic_ids("model name\t: toy\n")


HEARTBEAT = """\
now_ms=5000.000 interval_ms=10.000
cpu=0 beats=100 last_ms=4995.000 max_gap_ms=12.500 state=online pid=70
cpu=1 beats=50 last_ms=1000.000 max_gap_ms=11.000 state=online pid=71
cpu=3 beats=7 last_ms=900.000 max_gap_ms=10.000 state=offline pid=72
"""


def test_a_gap_that_is_still_open_counts():
    heartbeat = parse_heartbeat(HEARTBEAT)
    assert heartbeat.cpus[0].max_gap_ms == 12.5
    assert heartbeat.longest_gap_ms == 4000.0
    assert set(heartbeat.cpus) == {0, 1}


def test_a_stopped_cpu_is_named():
    before = parse_heartbeat(HEARTBEAT)
    after = parse_heartbeat(HEARTBEAT.replace("beats=100", "beats=101"))
    assert after.stopped_since(before) == [1]


def test_no_heartbeat_at_all_is_an_error():
    with pytest.raises(HarnessError, match="no CPU has a heartbeat"):
        parse_heartbeat("")


def test_received_messages_are_exact():
    first, second = parse_received("dropped=0\n0 1 0x4000 0 3 0aff00\n1 0 0x4001 7 0 -\n")
    assert (first.sender, first.type, first.payload) == (1, 0x4000, b"\x0a\xff\x00")
    assert (second.subtype, second.payload) == (7, b"")


def test_a_torn_message_line_is_an_error():
    with pytest.raises(HarnessError, match="contradicts itself"):
        parse_received("0 1 0x4000 0 4 0aff00\n")


def test_hooks_are_told_by_type_and_function():
    found = parse_hooks("0x5000 1 1 7 0 0 1 0xffffffff 232\n0x4000 0 0 0 0 0 0 0 0\n")
    assert found[0x5000, 1] == Hook(True, 7, 0, 0, 1, 0xFFFFFFFF, 232)
    assert not found[0x4000, 0].on


def test_the_blob_says_what_is_granted():
    blob = instances_blob([SpawnedKernel(name="alpha", id=5, cpus=(2, 3), memory=0x1000_0000)])
    tree = fdt.parse_dtb(blob)
    assert int.from_bytes(blob[4:8], "big") == len(blob), "totalsize is the byte count"
    assert tree.get_property("compatible").value == "multikernel-v1"
    assert tree.get_property("id", "/instances/alpha").value == 5
    assert list(tree.get_property("cpus", "/instances/alpha/resources")) == [2, 3]
    assert tree.get_property("memory-bytes", "/instances/alpha/resources").value == 0x1000_0000


def test_a_page_table_root_is_named_without_flag_bits():
    processor = processor_of(Registers(3, {"RIP": 0xFFFFFFFF810A0B0D, "CR3": 0x8000000041A0A801}, {}, True))
    assert (processor.index, processor.cr3) == (3, 0x41A0A000)
