# SPDX-License-Identifier: MIT
"""The host's command line argument that names memory, with memory that is no good: the host boots without."""

import re
from dataclasses import replace

import pytest

from harness.build import Build
from harness.definition import Topology
from harness.lab import BOOT_TIMEOUT, machine_spec
from harness.multikernel.dialects import find_dialect
from harness.multikernel.kernel import parse_iomem
from harness.plugin import Seen, claim, counted
from harness.vm.accel import choose
from harness.vm.console import printed
from harness.vm.machine import Machine

pytestmark = pytest.mark.needs("spawn")

TAKEN = re.compile("multikernel|mk-", re.IGNORECASE)
"""What the series call memory of theirs in /proc/iomem."""
ADDRESSES = {
    "no number": None,
    "the host's own text": 0x100_0000,
    "the local APIC": 0xFEE0_0000,
    "beyond the memory that there is": 0x40_0000_0000,
}


@claim(
    "the host boots whatever memory its command line names, and lists none that it did not take",
    source="known bug V1-12: the address is taken unchecked; interface sheet BI-5, ME-N1",
)
@pytest.mark.parametrize("where", ADDRESSES)
def test_memory_argument(
    build: Build, topology: Topology, pytestconfig: pytest.Config, seen: Seen, where: str
) -> None:
    address = ADDRESSES[where]
    text = "rubbish" if address is None else f"{address:#x}"
    argument = find_dialect(build.definition.dialect).memory_argument(text)
    spec = machine_spec(build, topology)
    name = argument.partition("=")[0]
    cmdline, found = re.subn(rf"\b{name}=\S+", argument, spec.cmdline)
    assert found == 1, f"the host's command line has no {name}"
    accel = choose(pytestconfig.getoption("--accel"))
    with Machine(replace(spec, cmdline=cmdline), accel) as machine, counted(pytestconfig, build, machine):
        console = machine.console("host")
        console.expect(printed("mkh: user space is up on host"), timeout=BOOT_TIMEOUT)
        channel = machine.channel("host")
        channel.wait_ready(timeout=BOOT_TIMEOUT)
        iomem = parse_iomem(channel.run("cat /proc/iomem").check().text)
        listed = [one for one in iomem if one.region.start == address and TAKEN.match(one.name)]
        said = channel.run("dmesg | grep -iE 'multikernel|mkkernel|malformed' || true").check().text
        seen(f"{argument}: {'; '.join(f'{one.name} at {one.region}' for one in listed) or 'boots'}")
        assert console.splats() == ()
        assert not listed, f"it is listed as taken; the kernel said:\n{said}"
