# SPDX-License-Identifier: MIT
"""What a Linux does to others of its own accord: watched while it boots, works and ends; and what it maps."""

from __future__ import annotations

import time

import msgspec

from harness.border import Border, watch
from harness.forks import Forks
from harness.isolation.properties import RESET
from harness.lab import Lab
from harness.model import Region
from harness.multikernel.kernel import Kernel
from harness.multikernel.layout import HOST
from harness.partition import Partition, trespasses
from harness.progress import Progress
from harness.vm.console import printed
from harness.vm.state import Cause

ENDS = ("reboot -f", "poweroff -f", "echo c >/proc/sysrq-trigger")
HOST_ENDS = ("reboot -f", "echo c >/proc/sysrq-trigger")
LOAD = (
    "mkctl shoot 50; test ! -e /lib/modules/mkraw.ko ||"
    " for n in 1 2 3; do insmod /lib/modules/mkraw.ko && rmmod mkraw; done"
)
"""What makes a host's CPUs call each other, one by one and all at once."""
BOOT_LIMIT = 40.0
END_WAIT = 0.6
"""Seconds that a kernel has to boot, and to do what its end brings, before scaling by the accelerator."""


class Conduct(msgspec.Struct):
    """What a Linux does of its own accord, by kind (``Row.traced``), and whether it maps others' RAM."""

    did: dict[str, str] = {}
    mapped: bool | None = None
    mapping: str = ""


def spawned(forks: Forks, quiet: Progress) -> Conduct:
    """Watch a spawned Linux boot and end in several ways, and look at what it maps."""
    conduct = Conduct()
    with forks.lab("booted", quiet) as lab:
        granted = lab.topology.spawned[0]
        instance = lab.dialect.grant(lab.host, lab.topology, granted)
        arguments = " ".join(lab.dialect.spawned_arguments(lab.topology, granted))
        lab.dialect.load(lab.host, instance, lab.dialect.linux, arguments)
        with watch(lab, instance, during=["start"]) as border:
            lab.dialect.start(lab.host, instance)
            up = printed(f"mkh: user space is up on {granted.name}")
            lab.machine.console(granted.name).expect(up, timeout=BOOT_LIMIT)
        _note(conduct, border, granted.name, "the boot of a spawned Linux")
    for how in ENDS:
        with forks.lab("spawned", quiet) as lab:
            _end(conduct, lab, lab.pair().spawned, how)
    with forks.lab("spawned", quiet) as lab:
        pair = lab.pair()
        code = next(one.region for one in lab.host.iomem() if one.name == "Kernel code")
        _reach(conduct, lab, pair.spawned, code)
    return conduct


def host(forks: Forks, quiet: Progress) -> Conduct:
    """Watch a host under load, and at its end."""
    conduct = Conduct()
    with forks.lab("spawned", quiet) as lab:
        pair = lab.pair()
        with watch(lab, pair.instance) as border:
            lab.host.run(LOAD, timeout=30)
        _note(conduct, border, HOST, "load in the host")
        _reach(conduct, lab, lab.host, pair.instance.ram)
    for how in HOST_ENDS:
        with forks.lab("spawned", quiet) as lab:
            _end(conduct, lab, lab.host, how)
    return conduct


def _end(conduct: Conduct, lab: Lab, kernel: Kernel, how: str) -> None:
    """Let a kernel end, and add what it did meanwhile, and whether the machine was reset."""
    console, machine = kernel.console, lab.machine
    with console.expected(".", required=False), watch(lab, lab.pair().instance, during=["stop"]) as border:
        console.send(f"{how}\n")
        limit = time.monotonic() + END_WAIT * lab.accel.factor
        while machine.ended() is None and time.monotonic() < limit:
            time.sleep(0.05)
    machine.end_awaited = machine.ended() is not None
    when = f"`{how}` in {'the host' if kernel.name == HOST else 'a spawned Linux'}"
    _note(conduct, border, kernel.name, when)
    if machine.cause is Cause.RESET:
        conduct.did.setdefault(RESET, f"{when} reset the machine")


def _note(conduct: Conduct, border: Border, kernel: str, when: str) -> None:
    """Add what ``kernel`` did beyond its border and was not agreed; what was lent counts as well."""
    for touch in border.touches:
        if touch.kernel == kernel != touch.owner:
            conduct.did.setdefault(touch.device, f"{when} wrote to the {touch.device}")
    for crossing in border.crossings:
        if crossing.source == kernel and not any(one.covers(crossing) for one in border.agreed):
            kind = "broadcast" if crossing.broadcast else crossing.delivery
            conduct.did.setdefault(kind, f"{when} sent {crossing.target} {crossing.kind}")


def _reach(conduct: Conduct, lab: Lab, kernel: Kernel, foreign: Region) -> None:
    """Look at what a Linux maps, and whether root there reads ``foreign`` memory all the same."""
    with Partition(lab).look() as look:
        if look is None:
            return
        own = [tables for tables in look.tables if tables.owner.name == kernel.name]
        mappings = {one for tables in own for one in trespasses(look, tables)}
    if not own:
        return
    conduct.mapped = bool(mappings)
    size = sum(one.physical.size for one in mappings)
    asked = f"dd if=/dev/mem of=/dev/null bs=4096 count=1 skip={foreign.start // 4096}"
    answered = kernel.channel.run(asked).status == 0
    conduct.mapping = (
        f"Linux maps {f'{size >> 10} KiB' if size else 'nothing'} of others' RAM;"
        f" root's /dev/mem {'reads it' if answered else 'does not'}"
    )
