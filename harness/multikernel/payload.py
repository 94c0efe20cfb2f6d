# SPDX-License-Identifier: MIT
"""The payload in place of a spawned kernel: it starts in milliseconds and does what it is told.

    payload = spawn_payload(lab, lab.topology.spawned[0])
    payload.boot.ram                         # what it was told about its memory
    payload.command("peek 0x100000").number("value")
    payload.last_command("spin")             # after which it does nothing else

``initramfs/payload/commands.c`` lists the commands; ``help`` prints them. After a stop, ``load`` and
``start`` start it again.
"""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import msgspec

from harness.definition import SpawnedKernel, Topology
from harness.errors import HarnessError
from harness.model import Region
from harness.multikernel.dialect import Dialect, Image
from harness.multikernel.instance import Instance
from harness.multikernel.kernel import Kernel
from harness.multikernel.messaging import RECENT, Got, Message
from harness.vm import serialport
from harness.vm.lapic import apic_ids
from harness.vm.machine import Machine
from harness.vm.patience import Patience
from harness.vm.registers import registers_of

FILE = "/boot/payload"
RAM = 1
"""Type of usable memory in a PC's memory map."""
SETUP_MULTIKERNEL = 0x4D4B
"""Type of setup_data by which the reference series tells a spawned kernel what it was granted."""
START_LIMIT = ANSWER_LIMIT = 10.0
"""Seconds from the start to "ready", and for an answer, before scaling by the accelerator."""
INTERRUPTS_ON = 1 << 9
"""IF in RFLAGS. Source: Intel SDM volume 1, 3.4.3."""


class Spawner(Protocol):
    """What spawning takes of a ``harness.lab.Lab``."""

    @property
    def host(self) -> Kernel:
        """The host kernel."""

    @property
    def machine(self) -> Machine:
        """The machine that it runs on."""

    @property
    def topology(self) -> Topology:
        """What is granted to whom, and the serial lines."""

    @property
    def dialect(self) -> Dialect:
        """How the series is driven."""


@dataclass(frozen=True)
class Boot:
    """What the payload says that it was given: its boot parameters, and the CPU that it runs on.

    ``image`` is the memory it was loaded to; ``e820`` the memory map with types; ``setup_data``
    address and type of each; ``told`` and ``granted`` what the reference series' own says (empty
    elsewhere): its fields, and APIC ids.
    """

    image: Region
    address: int
    apic_id: int
    arguments: str
    e820: tuple[tuple[Region, int], ...]
    initrd: Region | None
    subarch: int
    rsdp: int
    setup_data: tuple[tuple[int, int], ...]
    told: Mapping[str, int]
    granted: tuple[int, ...]

    @property
    def ram(self) -> tuple[Region, ...]:
        """The usable memory in its memory map."""
        return tuple(region for region, type in self.e820 if type == RAM)


@dataclass(frozen=True)
class Answer:
    """What a command answered: the keys and values of its last line, and the lines before it."""

    fields: Mapping[str, str]
    lines: tuple[str, ...]

    def number(self, key: str) -> int:
        """Return a value as a number."""
        return int(self.fields[key], 0)

    def data(self) -> bytes:
        """Return ``data`` as bytes."""
        return bytes.fromhex(self.fields["data"])


class Payload:
    """A granted instance with the payload in it, or about to be. Use ``spawn_payload``."""

    def __init__(
        self, host: Kernel, machine: Machine, dialect: Dialect, instance: Instance, arguments: str
    ) -> None:
        self.host = host
        self.machine = machine
        self.console = machine.console(instance.name)
        self.dialect = dialect
        self.instance = instance
        self.arguments = arguments
        self.boot: Boot
        self._began = 0

    def __repr__(self) -> str:
        # It stands above each failure.
        return f"<payload in place of {self.instance.name}>"

    def load(self, arguments: str = "", *, initrd: str | None = None) -> None:
        """Load it with ``arguments`` beside those for its console; ``initrd`` is a file of the host's."""
        self.dialect.load(
            self.host, self.instance, Image(FILE, initrd), f"{self.arguments} {arguments}".strip()
        )

    def start(self) -> Boot:
        """Start it, and wait until it is ready. Raises HarnessError when it is not."""
        self._began = self.console.mark
        self.dialect.start(self.host, self.instance)
        self.console.expect(r"payload: ready\r\n", timeout=START_LIMIT)
        self.boot = parse_boot(self.text)
        return self.boot

    @property
    def text(self) -> str:
        """What it has printed since its last start."""
        return self.console.transcript[self._began :].decode("utf-8", "replace").replace("\r\n", "\n")

    def command(self, command: str, *, timeout: float = ANSWER_LIMIT) -> Answer:
        """Give it a command. Raises HarnessError when it answers that something is wrong or not at all."""
        name = re.escape(command.split(maxsplit=1)[0])
        before = self.console.mark
        self._send(command)
        match = self.console.expect(rf"(?<![^\n])(ok|error) {name}([^\r\n]*)\r\n", timeout=timeout)
        if match[1] == "error":
            raise HarnessError(f"the payload cannot {command}:{match[2]}")
        said = self.console.transcript[before:].decode("utf-8", "replace").splitlines()
        return Answer(_fields(match[2]), tuple(line for line in said if line.startswith("payload: ")))

    def last_command(self, command: str) -> None:
        """Give it a command that ends it (stop, crash, hang, spin, fault); wait until it begins with that.

        After hang and spin it writes nothing more. Raises HarnessError when it does not obey.
        """
        self._send(command)
        self.console.expect(rf"payload: {command}\r\n", timeout=ANSWER_LIMIT)
        if command == "hang":
            self._await_hung()

    def _await_hung(self) -> None:
        # It says so first, and then calls what does it: its stack is still written. One that spins is in its
        # loop once it has said so. At rest it halts as well, but then with its interrupts on.
        vcpu = apic_ids(self.machine).index(self.boot.apic_id)
        limit = time.monotonic() + ANSWER_LIMIT * self.host.factor
        while time.monotonic() < limit:
            registers = registers_of(self.machine.qmp)[vcpu]
            if registers.halted and not registers["RFL"] & INTERRUPTS_ON:
                return
            time.sleep(0.01)
        raise HarnessError("the payload was told to hang, and does not halt with its interrupts off")

    def _send(self, command: str) -> None:
        self.host.channel.steps.typed(self.instance.name, command)
        self.console.send(f"{command}\n")

    def beats(self) -> int:
        """Return how often its timer has ticked, about a thousand times a second."""
        return self.command("beat").number("count")

    def ticks_on(self) -> bool:
        """Say whether its timer ticks; its first tick may be due, and on a busy computer any may be late."""
        before, limit = self.beats(), time.monotonic() + ANSWER_LIMIT * self.host.factor
        while self.beats() == before:
            if time.monotonic() > limit:
                return False
        return True

    def counters(self) -> dict[int, tuple[int, int]]:
        """Return where its ticks are counted: address and bytes, by APIC id; see Kernel.counters."""
        return {self.boot.apic_id: (self.command("beat").number("address"), 4)}

    def send(self, destination: int, payload: bytes, *, type: int, subtype: int = 0) -> None:
        """Send a message; ``destination`` is an instance's id. Raises HarnessError when it cannot."""
        self.command(f"send {destination} {type:#x} {payload.hex() or '-'} {subtype:#x}")

    def write(self, address: int, data: bytes) -> None:
        """Write to any memory, eight bytes at a time."""
        for at in range(0, len(data), 8):
            part = data[at : at + 8]
            width = next(width for width in (8, 4, 2, 1) if len(part) % width == 0)
            for first in range(0, len(part), width):
                value = int.from_bytes(part[first : first + width], "little")
                self.command(f"poke {address + at + first:#x} {value:#x} {width}")

    def flood(
        self, destination: int, count: int, size: int, *, tag: int = 0, patience_ms: int = 30_000
    ) -> None:
        """Send ``count`` numbered messages, waiting for room; return when all are taken.

        Raises HarnessError when there was no room for ``patience_ms``.
        """
        self.command(f"flood {destination} {count} {size} {tag} {patience_ms}", timeout=60)

    def flooded(self, tag: int) -> Got:
        """Return what came of a flood to it."""
        said = self.command(f"tally {tag}")
        return Got(*(said.number(key) for key in ("count", "missing", "back", "torn")))

    def received(self) -> tuple[Message, ...]:
        """Return the messages that it has taken since its last start, oldest first."""
        # With its end: the last line may still be coming.
        found = re.findall(r"^payload: message (.*)\n", self.text, re.MULTILINE)
        return tuple(_message(_fields(line)) for line in found)

    def wait_for(self, payload: bytes, *, timeout: float = ANSWER_LIMIT) -> Message:
        """Wait until it has taken a message with this payload. Raises HarnessError."""
        limit = timeout * self.host.factor
        patience = Patience(limit, f"the message {payload!r} to the payload", self.console.last_word)
        while True:
            messages = self.received()
            for message in messages:
                if message.payload == payload:
                    return message
            if patience.over():
                raise HarnessError(
                    f"the payload has not received the message {payload!r} after {limit:.0f} s",
                    details="\n".join(
                        [
                            "It has received:",
                            *(map(str, messages[-RECENT:]) if messages else ["nothing at all"]),
                        ]
                    ),
                    timed_out=True,
                )
            time.sleep(0.01)


def spawn_payload(
    lab: Spawner, granted: SpawnedKernel, arguments: str = "", *, initrd: str | None = None
) -> Payload:
    """Grant what ``granted`` says, load the payload there and start it; it is ready on return.

    Its serial line is the one that the topology has for a kernel of that name. Raises HarnessError.
    """
    payload = grant_payload(lab, granted)
    payload.load(arguments, initrd=initrd)
    payload.start()
    return payload


def grant_payload(lab: Spawner, granted: SpawnedKernel) -> Payload:
    """Do the first step of ``spawn_payload`` alone; ``load`` and ``start`` are the others."""
    serial = serialport.located(lab.topology.serial, lab.machine.qmp)
    topology = msgspec.structs.replace(lab.topology, serial=serial)
    instance = lab.dialect.grant(lab.host, lab.topology, granted)
    arguments = " ".join(lab.dialect.spawned_arguments(topology, granted))
    return Payload(lab.host, lab.machine, lab.dialect, instance, arguments)


def parse_boot(text: str) -> Boot:
    """Read what the payload prints before it is ready. Raises HarnessError when something is missing."""
    lines = re.findall(r"^payload: (\w+) ?(.*)$", text, re.MULTILINE)
    said: dict[str, list[dict[str, int]]] = {}
    for word, rest in lines:
        if word != "cmdline":
            numbers = {key: int(value, 0) for key, value in _fields(rest).items() if key != "data"}
            said.setdefault(word, []).append(numbers)
    try:
        (started,), (initrd,), (platform,) = said["started"], said["initrd"], said["platform"]
        return Boot(
            image=Region(started["image"], started["end"] - started["image"]),
            address=started["boot_params"],
            apic_id=started["apic_id"],
            arguments=next(rest for word, rest in lines if word == "cmdline"),
            e820=tuple((Region(one["start"], one["size"]), one["type"]) for one in said.get("e820", [])),
            initrd=Region(initrd["start"], initrd["size"]) if initrd["size"] else None,
            subarch=platform["subarch"],
            rsdp=platform["rsdp"],
            setup_data=tuple((one["address"], one["type"]) for one in said.get("setup_data", [])),
            told=said.get("instance", [{}])[0],
            granted=tuple(one["apic_id"] for one in said.get("granted", [])),
        )
    except (KeyError, ValueError, StopIteration) as error:
        raise HarnessError(
            f"what the payload printed at its start is not understood: {error!r}", details=text
        ) from None


def _fields(text: str) -> dict[str, str]:
    return dict(word.split("=", 1) for word in text.split() if "=" in word)


def _message(fields: Mapping[str, str]) -> Message:
    sequence, sender, type, subtype = (int(fields[key], 0) for key in ("seq", "from", "type", "subtype"))
    return Message(sequence, sender, type, subtype, bytes.fromhex(fields["data"]))
