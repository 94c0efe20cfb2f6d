# SPDX-License-Identifier: MIT
"""Serial ports on ISA and PCI: QEMU's arguments, their addresses, what kernels are told of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import msgspec
import pytest

from harness.definition import SerialLine, load_topology
from harness.errors import HarnessError
from harness.multikernel.dialect import console_arguments
from harness.vm.qmp import Qmp
from harness.vm.serialport import arguments, located

ISA = SerialLine("host", 2, 4)
PCI = SerialLine("alpha", 0, bus="pci")


class FakeQmp:
    """Answers query-pci as QEMU does, with a serial port of the given address."""

    def __init__(self, address: int) -> None:
        self.address = address

    def execute(self, command: str) -> Any:
        assert command == "query-pci"
        region = {"bar": 0, "type": "io", "address": self.address, "size": 8}
        bridge = {"qdev_id": "", "regions": []}
        return [{"bus": 0, "devices": [bridge, {"qdev_id": "serial0", "regions": [region]}]}]


def qmp(address: int) -> Qmp:
    return cast(Qmp, FakeQmp(address))


def test_each_bus_has_its_device():
    assert arguments(ISA, Path("/run/x"))[-1] == "isa-serial,chardev=port2,index=2,iobase=0x3e8,irq=4"
    assert arguments(PCI, Path("/run/x"))[-1] == "pci-serial,chardev=pci0,id=serial0,addr=0x8"


def test_a_pci_port_is_where_the_firmware_put_it():
    isa, pci = located((ISA, PCI), qmp(0xC010))
    assert isa == ISA
    assert (isa.address, pci.address) == (0x3E8, 0xC010)


@pytest.mark.parametrize("address", [-1, 0])
def test_a_port_without_an_address_is_an_error(address: int):
    with pytest.raises(HarnessError, match="PCI serial port 0"):
        located((PCI,), qmp(address))


def test_isa_ports_need_no_question():
    assert located((ISA,), qmp(-1)) == (ISA,)


def test_kernels_are_told_of_ports_that_they_cannot_find():
    topology = load_topology("crowd")
    lines = tuple(
        msgspec.structs.replace(line, io=0xC000 + 8 * line.port) if line.bus == "pci" else line
        for line in topology.serial
    )
    topology = msgspec.structs.replace(topology, serial=lines)
    spawned = console_arguments(topology, "bravo")
    assert "earlyprintk=serial,0xc010,115200,keep" in spawned
    assert "mkh.io=0xc010,0xc018" in spawned
    host = console_arguments(topology, "host")
    assert "console=ttyS2,115200" in host
    assert "initcall_blacklist=serial_pci_driver_init" in host


def test_a_machine_without_pci_ports_is_told_nothing_of_them():
    for kernel in ("host", "alpha"):
        told = console_arguments(load_topology("pair"), kernel)
        assert not [word for word in told if word.startswith(("initcall_blacklist", "mkh.io"))]
