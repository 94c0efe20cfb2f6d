# SPDX-License-Identifier: MIT
"""Loads that must be refused: wrong flags, ids, files, lengths, callers. The instance stays as it was."""

from collections.abc import Iterator
from contextlib import suppress

import pytest

from harness.definition import SpawnedKernel
from harness.lab import Lab
from harness.model import without
from harness.multikernel.interface import NO_INITRAMFS, Interface
from harness.plugin import Seen, claim
from harness.vm.command import ChannelError
from harness.vm.ram import ram_of
from harness.vm.ram_scan import digests, regions_of

pytestmark = pytest.mark.needs("instances")

COMMAND_LINE_SIZE = 2048
"""The longest command line of an x86 kernel, its NUL included."""


@pytest.fixture
def unharmed(mk: Interface, ready: SpawnedKernel) -> Iterator[SpawnedKernel]:
    """An instance which, whatever the test tried, is ready at its end, and takes a good image."""
    yield ready
    assert mk.state(ready.name) == "ready", f"{ready.name} is {mk.state(ready.name)}"
    outcome = mk.load(ready.id)
    assert outcome.ok, f"after refused loads a good one fails: {outcome}"


def flags(mk: Interface, id: int, more: int = 0) -> int:
    return mk.flags(id) | NO_INITRAMFS | more


@claim("a load for an instance that does not exist is refused", source="RFC v2 15/16: ENOENT")
def test_unknown_id(mk: Interface, unharmed: SpawnedKernel, seen: Seen) -> None:
    for id in (2, 7, 1024, 2047):
        outcome = mk.load(id)
        seen(f"id {id}: {outcome.error or 'accepted'}")
        assert outcome.error == "ENOENT", outcome


@claim("id 0 is no instance", source="RFC v2 15/16: EINVAL for an id that is not positive")
def test_id_zero(mk: Interface, unharmed: SpawnedKernel, seen: Seen) -> None:
    outcome = mk.load(0)
    seen(outcome.error or "accepted")
    assert outcome.error == "EINVAL"


@claim("an id beyond 2047 is refused and not cut", source="known bug C-04: 2049 loads id 1")
def test_large_id(mk: Interface, unharmed: SpawnedKernel, seen: Seen) -> None:
    for id in (2048, 2049, 4097, 1 << 20 | 1):
        outcome = mk.load(id)
        seen(f"id {id}: {outcome.error or 'accepted'}")
        assert outcome.error in {"EINVAL", "ENOENT"}, outcome
        assert mk.state(unharmed.name) == "ready", f"{unharmed.name} got the image for {id}"


@claim("an id without the multikernel flag is refused", source="kexec_file_load(2): EINVAL for invalid flags")
def test_id_without_flag(mk: Interface, unharmed: SpawnedKernel, seen: Seen) -> None:
    stray = mk.flags(unharmed.id) & ~mk.numbers.load_flag
    outcome = mk.call(f"kexec_file_load fd:/boot/bzImage -1 1 s: {stray | NO_INITRAMFS:#x}", limit=20)
    seen(f"flags {stray | NO_INITRAMFS:#x}: {outcome.error or 'accepted'}")
    assert outcome.error == "EINVAL"


@claim(
    "a crash kernel is not loaded into an instance", source="known bug V1-06: both kinds at once are accepted"
)
def test_on_crash(mk: Interface, unharmed: SpawnedKernel, seen: Seen) -> None:
    on_crash = 0x2
    outcome = mk.load(unharmed.id, flags=on_crash)
    seen(outcome.error or "accepted")
    assert not outcome.ok


@claim("every flag that has no meaning is refused", source="kexec_file_load(2): EINVAL for invalid flags")
def test_unknown_flags(mk: Interface, unharmed: SpawnedKernel, seen: Seen) -> None:
    known = 0x3F | mk.numbers.load_flag | 0x7FF << mk.numbers.id_shift
    for bit in (bit for bit in range(64) if not known >> bit & 1):
        line = f"kexec_file_load fd:/boot/bzImage -1 1 s: {flags(mk, unharmed.id, 1 << bit):#x}"
        outcome = mk.call(line, limit=20)
        assert outcome.error == "EINVAL", f"bit {bit}: {outcome}"
    seen(f"{sum(not known >> bit & 1 for bit in range(64))} bits, one by one")


@claim("who has not CAP_SYS_BOOT may load nothing", source="kexec_file_load(2): EPERM")
@pytest.mark.parametrize("who", ["uid:1000", "userns"])
def test_unprivileged(mk: Interface, unharmed: SpawnedKernel, seen: Seen, who: str) -> None:
    if who == "userns" and not mk.host.run("test -e /proc/self/ns/user && echo yes || true"):
        pytest.skip("the kernel has no user namespaces")
    outcome = mk.call(f"{who} {mk.load_call(unharmed.id)}", limit=20)
    seen(f"{who}: {outcome.error or 'accepted'}")
    assert outcome.error == "EPERM"


@claim("kexec_load_disabled covers instances", source="Documentation/admin-guide/sysctl/kernel.rst")
def test_load_disabled(lab: Lab, mk: Interface, ready: SpawnedKernel, seen: Seen) -> None:
    lab.host.run("echo 1 >/proc/sys/kernel/kexec_load_disabled")
    outcome = mk.load(ready.id)
    seen(outcome.error or "accepted")
    assert outcome.error == "EPERM"
    assert mk.state(ready.name) == "ready"


def ordinary(line: str, mk: Interface, id: int) -> str:
    """Return the same call without an instance: an ordinary kexec load."""
    head, flags = line.rsplit(" ", 1)
    return f"{head} {int(flags, 0) & ~mk.flags(id):#x}"


def compare(mk: Interface, id: int, lines: dict[str, str], seen: Seen) -> None:
    """Require that each load is refused, for the reason for which an ordinary kexec load is refused.

    What an ordinary load takes (a kernel that was cut short: nobody checks), an instance may take as well.
    """
    wrong = []
    for what, line in lines.items():
        outcome, usual = (mk.call(text, limit=20) for text in (line, ordinary(line, mk, id)))
        if outcome.ok:
            mk.unload(id).require()
        if outcome.error != usual.error:
            wrong.append(f"{what}: {outcome}, but an ordinary load ends with {usual.error or 'success'}")
        seen(f"{what}: {outcome.error or 'accepted'}")
    assert not wrong, "\n".join(wrong)


BROKEN = {
    "empty": "true",
    "a byte": "printf M",
    "text": "echo 'this is no kernel'",
    "zeros": "head -c 100000 /dev/zero",
    "one sector of a kernel": "head -c 512 /boot/bzImage",
    "a kernel's set-up code only": "head -c 16384 /boot/bzImage",
    "half a kernel": "head -c 1000000 /boot/bzImage",
    "a program": "cat /bin/busybox",
    "an initrd": "cat /boot/initrd",
}


@claim(
    "what is no kernel is refused as an ordinary load refuses it, and the instance stays usable",
    source="kexec_file_load(2): ENOEXEC",
)
@pytest.mark.needs("unload", "kexec")
def test_no_kernel(mk: Interface, unharmed: SpawnedKernel, seen: Seen) -> None:
    lines = {}
    for number, (what, command) in enumerate(BROKEN.items()):
        mk.host.run(f"{command} >/run/image{number}")
        lines[what] = mk.load_call(unharmed.id, image=f"/run/image{number}")
    compare(mk, unharmed.id, lines, seen)


@claim(
    "a load that is refused leaves no image behind: the next load is good",
    source="interface sheet KX-N4: clean-up of the error path",
)
def test_nothing_is_left(mk: Interface, ready: SpawnedKernel, seen: Seen) -> None:
    mk.host.run("echo 'this is no kernel' >/run/text")
    outcomes = [mk.load(ready.id, image="/run/text"), mk.load(ready.id)]
    state = mk.state(ready.name)
    seen(", then ".join(outcome.error or "accepted" for outcome in outcomes) + f"; {state}")
    assert [outcome.error for outcome in outcomes] == ["ENOEXEC", ""], "\n".join(map(str, outcomes))


@claim(
    "after a load that was refused there is nothing to start",
    source="interface sheet KX-N4; known bug C-01: the instance still points to the image that was freed",
)
def test_nothing_to_start(mk: Interface, ready: SpawnedKernel, seen: Seen) -> None:
    mk.host.run("echo 'this is no kernel' >/run/text")
    refused = mk.load(ready.id, image="/run/text")
    started = mk.start(ready.id)
    seen(f"load: {refused.error or 'accepted'}, start: {started.error or 'accepted'}")
    assert (refused.error, started.error) == ("ENOEXEC", "EINVAL")
    assert mk.host.run("echo alive") == "alive"


@claim("an image that cannot be read as a file is refused", source="kexec_file_load(2): EBADF and others")
def test_no_file(mk: Interface, unharmed: SpawnedKernel, seen: Seen) -> None:
    mk.host.run("cat /boot/bzImage >/run/image")
    for file in ("-1", "99", "fd:/run", "fdw:/run/image", "fd:/dev/zero", "fd:/dev/null"):
        outcome = mk.call(f"kexec_file_load {file} -1 1 s: {flags(mk, unharmed.id):#x}", limit=20)
        seen(f"{file}: {outcome.error or 'accepted'}")
        assert outcome.error not in {"", "hung", "killed"}, outcome


@claim("an initrd that cannot be read is refused", source="kexec_file_load(2): EBADF and others")
def test_no_initrd(mk: Interface, unharmed: SpawnedKernel, seen: Seen) -> None:
    for file in ("-1", "99", "fd:/run", "fd:/dev/zero"):
        line = f"kexec_file_load fd:/boot/bzImage {file} 1 s: {mk.flags(unharmed.id):#x}"
        outcome = mk.call(line, limit=20)
        seen(f"{file}: {outcome.error or 'accepted'}")
        assert outcome.error not in {"", "hung", "killed"}, outcome


COMMAND_LINES = {
    "none, of no length": (0, "null"),
    "somewhere, of no length": (0, "s:a"),
    "as long as a kernel takes": (COMMAND_LINE_SIZE, "s:" + "a" * (COMMAND_LINE_SIZE - 1)),
    "longer than that": (COMMAND_LINE_SIZE + 1, f"fill:{COMMAND_LINE_SIZE + 1}:0"),
    "as long as can be": (-1, "s:a"),
    "a page more than 4 GiB": (1 << 32 | 4096, "s:a"),
    "not ended by a NUL": (4, "raw:abcd"),
    "at NULL": (16, "null"),
    "at no address": (16, "unmapped"),
    "in the kernel": (16, "kernel"),
    "at an address that there cannot be": (16, "noncanonical"),
    "longer than its memory": (16, "s:short"),
}


@claim(
    "command lines of every length and at every address are taken or refused as by an ordinary load",
    source="kexec_file_load(2)",
)
@pytest.mark.needs("unload", "kexec")
def test_command_lines(mk: Interface, unharmed: SpawnedKernel, seen: Seen) -> None:
    lines = {
        what: f"kexec_file_load fd:/boot/bzImage -1 {length} {pointer} {flags(mk, unharmed.id):#x}"
        for what, (length, pointer) in COMMAND_LINES.items()
    }
    compare(mk, unharmed.id, lines, seen)


@claim(
    "what does not fit into the instance is refused, and takes no memory of the host's",
    source="known bug V2-06: host memory is taken instead",
)
@pytest.mark.parametrize("what", ["kernel", "initrd"])
def test_too_large(lab: Lab, mk: Interface, seen: Seen, what: str) -> None:
    size = (1 << 20) if what == "kernel" else (48 << 20)
    alpha = SpawnedKernel("alpha", 1, (lab.topology.vcpus - 1,), size)
    mk.create(alpha).require()
    initrd = None
    if what == "initrd":
        lab.host.run(f"head -c {size} /dev/zero >/run/initrd")
        initrd = "/run/initrd"
    ram, before = ram_of(lab.machine), digests(ram_of(lab.machine))
    outcome, pool = None, lab.topology.pool.region
    with suppress(ChannelError):
        outcome = mk.load(alpha.id, initrd=initrd)
    changed = without(regions_of(digests(ram).changed_since(before)), [pool])
    longest = max(changed, key=lambda region: region.size)
    seen(f"the longest stretch of the host's memory that changed meanwhile: {longest.size >> 10} KiB")
    assert outcome is not None, f"the host died of it: {lab.machine.ended() or 'it does not answer'}"
    state = mk.state(alpha.name)
    seen(f"{what} for {size >> 20} MiB: {outcome.error or 'accepted'}, then {state}")
    assert outcome.error in {"EADDRNOTAVAIL", "ENOMEM", "ENOSPC", "EINVAL"}
    assert state == "ready"


@claim("unloading what is not loaded is refused", source="multikernel tree: ENOENT")
@pytest.mark.needs("unload")
def test_unload_nothing(mk: Interface, unharmed: SpawnedKernel, seen: Seen) -> None:
    outcomes = [mk.unload(unharmed.id), mk.unload(2047), mk.unload(0)]
    seen(", ".join(outcome.error or "accepted" for outcome in outcomes))
    assert [outcome.error for outcome in outcomes] == ["ENOENT", "ENOENT", "EINVAL"]
