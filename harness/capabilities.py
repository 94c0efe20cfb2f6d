# SPDX-License-Identifier: MIT
"""What a build can do, found out by trying it on machines of its own; never taken from a version.

Each capability is tried once for a build, on a fork, and what was found is kept in the cache. A test
says what it needs; a definition says what its kernel is expected to have.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import msgspec
from filelock import FileLock
from msgspec.structs import replace
from rich.markup import escape

from harness import faults, paths
from harness.definition import Definition
from harness.errors import HarnessError
from harness.forks import CODE, Forks
from harness.lab import Lab, attempted
from harness.multikernel import calls, messaging, segments
from harness.multikernel.interface import MOUNT, Interface, Numbers, mount
from harness.multikernel.kimage import parse_kimage
from harness.partition import Partition
from harness.progress import Progress
from harness.replacement import replace_host


class Found(msgspec.Struct, frozen=True):
    """Whether a build has a capability, and in one line what was seen."""

    present: bool
    evidence: str


@dataclass(frozen=True)
class Capability:
    """One thing that a build can do. ``attempt`` returns what it saw; HarnessError means that it cannot."""

    name: str
    what: str
    attempt: Callable[[Forks, Progress], str]


class Absent(HarnessError):
    """The kernel does not have the capability."""


def _on_host(attempt: Callable[[Lab], str]) -> Callable[[Forks, Progress], str]:
    """Make an attempt on a host kernel of its own."""

    def run(forks: Forks, progress: Progress) -> str:
        with forks.lab("booted", progress) as lab:
            return attempt(lab)

    return run


def _on_pair(attempt: Callable[[Lab], str]) -> Callable[[Forks, Progress], str]:
    """Make an attempt on a host kernel and a spawned one of its own."""

    def run(forks: Forks, progress: Progress) -> str:
        with forks.lab("spawned", progress) as lab:
            return attempt(lab)

    return run


def interface_of(lab: Lab) -> Interface:
    """Return the interface of a lab's host kernel. Raises Absent where instances have no ids."""
    if lab.dialect.numbers is None:
        raise Absent(f"in dialect {lab.dialect.name} instances have no ids")
    interface = Interface(lab.host, lab.dialect.numbers)
    interface.mount()
    return interface


def _spawn(lab: Lab) -> str:
    return f"{lab.pair().spawned.name} runs Linux {lab.pair().spawned.run('uname -r')}"


def _kimage(lab: Lab) -> str:
    header = lab.host.read(lab.dialect.kimage).partition("\n")[0]
    if "Start Address" not in header:
        raise Absent(f"{lab.dialect.kimage} begins with {header!r}")
    return f"{lab.dialect.kimage}: {' '.join(header.split())}"


def _messages(lab: Lab) -> str:
    pair, payloads = lab.pair(), (secrets.token_bytes(8), secrets.token_bytes(8))
    messaging.send(pair.host, lab.dialect.to_spawned(pair.instance), payloads[0])
    messaging.send(pair.spawned, lab.dialect.to_host, payloads[1])
    messaging.wait_for(pair.spawned, payloads[0])
    messaging.wait_for(pair.host, payloads[1])
    return "one each way"


def _instances(lab: Lab) -> str:
    granted = lab.topology.spawned[0]
    instance = lab.dialect.grant(lab.host, lab.topology, granted)
    state = interface_of(lab).state(granted.name)
    if not state:
        raise Absent(f"there is no status of instance {granted.name}")
    return f"{granted.name} at {instance.ram} is {state}"


def _read_back(lab: Lab) -> str:
    interface_of(lab)
    made = lab.host.channel.get(f"{MOUNT}/device_tree")
    if not made.startswith(b"\xd0\x0d\xfe\xed"):
        raise Absent(f"what is read from device_tree is none: {made[:40]!r}")
    return f"a device tree of {len(made)} bytes"


def _several(lab: Lab) -> str:
    first = lab.topology.spawned[0]
    size = first.memory // 2
    one = replace(first, memory=size)
    two = replace(first, name="another", id=first.id + 1, cpus=(first.cpus[0] - 1,), memory=size)
    topology = replace(lab.topology, spawned=(one, two))
    for kernel in topology.spawned:
        instance = lab.dialect.grant(lab.host, topology, kernel)
        lab.dialect.load(lab.host, instance, lab.dialect.linux, "")
    images = parse_kimage(lab.host.read(lab.dialect.kimage))
    found = [image for image in images if image.type == "multikernel"]
    if len(found) != len(topology.spawned):
        raise Absent(f"{len(found)} images are listed, {len(topology.spawned)} were loaded")
    return f"{one.name} and {two.name} have an image at once"


def _cpus(lab: Lab) -> str:
    first = lab.topology.spawned[0]
    lab.topology = replace(lab.topology, spawned=(replace(first, cpus=(first.cpus[0] - 1, first.cpus[0])),))
    pair = lab.pair()
    found = pair.spawned.apic_ids()
    if found != pair.instance.apic_ids:
        raise Absent(f"granted were APIC ids {pair.instance.apic_ids}, {pair.spawned.name} runs on {found}")
    return f"{pair.spawned.name} runs on APIC ids {found}"


def _remove(lab: Lab) -> str:
    interface, granted = interface_of(lab), lab.topology.spawned[0]
    interface.create(granted).require()
    interface.remove(granted.name).require()
    if granted.name in interface.names():
        raise Absent(f"{granted.name} is still there after rmdir")
    return f"{granted.name} is gone after rmdir"


def _unload(lab: Lab) -> str:
    interface, granted = interface_of(lab), lab.topology.spawned[0]
    interface.create(granted).require()
    interface.load(granted.id).require()
    interface.unload(granted.id).require()
    return f"{granted.name} is {interface.state(granted.name)} after its unloading"


def _stopped(lab: Lab, *, force: bool) -> str:
    granted = lab.pair().instance
    interface = interface_of(lab)
    if interface.numbers.halt is None or interface.numbers.force is None:
        raise Absent(f"dialect {lab.dialect.name} knows no way to stop a kernel")
    (interface.force if force else interface.halt)(granted.id).require()
    return f"{granted.name} is {interface.state(granted.name)} after its end"


def _userns(lab: Lab) -> str:
    lab.host.run("test -e /proc/self/ns/user")
    return "a process may be root of a user namespace"


def _fault_injection(lab: Lab) -> str:
    lab.host.run("test -w /proc/self/fail-nth && test -d /sys/kernel/debug/failslab")
    return "/proc/self/fail-nth and failslab"


def _plain(lab: Lab) -> Interface:
    return Interface(lab.host, lab.dialect.numbers or Numbers(0, 0, 0))


def _ssh(lab: Lab) -> str:
    if not lab.build.definition.ssh:
        raise Absent("its definition does not ask for SSH")
    return lab.host.run("ls /bin/dropbear")


def _faults(lab: Lab) -> str:
    return lab.host.run(f"insmod {faults.MODULE} && cat /proc/mkfault && rmmod mkfault && echo loads")


def _machine_check(lab: Lab) -> str:
    found = lab.host.run("grep -o 'MCE: .*' /proc/interrupts || true")
    if not found:
        raise Absent("the kernel was built without CONFIG_X86_MCE")
    return found


def _kexec(lab: Lab) -> str:
    interface = _plain(lab)
    interface.call("kexec_file_load fd:/boot/bzImage -1 1 s: 0x4", limit=20).require()
    return f"kexec_loaded is {lab.host.read('/sys/kernel/kexec_loaded').strip()}"


def _kho(lab: Lab) -> str:
    sizes = lab.host.read("/sys/kernel/debug/kho/out/scratch_len").split()
    return f"scratch areas of {', '.join(sizes)} bytes"


def _luo(lab: Lab) -> str:
    lab.host.run("test -c /dev/liveupdate")
    return "/dev/liveupdate"


def _kho_tests(lab: Lab) -> str:
    lab.host.run("test -e /sys/kernel/debug/kho/out/sub_fdts/kho_test")
    return "the kernel's own test of KHO has something to hand over"


def _halt(lab: Lab) -> str:
    return _stopped(lab, force=False)


def _force(lab: Lab) -> str:
    return _stopped(lab, force=True)


def _segments(lab: Lab) -> str:
    start = lab.topology.pool.start
    segments.load(lab.host, f"64@{start:#x}+4096", start).require()
    images = parse_kimage(lab.host.read(lab.dialect.kimage))
    if [image.type for image in images] != ["multikernel"]:
        raise Absent(f"what kexec_load(2) took is listed as {[image.type for image in images]}")
    calls.call(lab.host, segments.UNLOAD).require()
    return f"a segment at {start:#x}"


def _fenced(lab: Lab) -> str:
    spawned = lab.pair().spawned
    found = spawned.run(
        "ls -d /sys/firmware/acpi 2>/dev/null || true; grep -oE 'IO-APIC|XT-PIC' /proc/interrupts || true"
    )
    if found:
        raise Absent(f"{spawned.name} sees {', '.join(sorted(set(found.split())))}")
    return f"{spawned.name} sees no ACPI tables and no interrupt controller of the machine's"


def _apart(lab: Lab) -> str:
    lab.pair()
    findings = Partition(lab).findings(strays=False)
    if findings:
        raise Absent("; ".join(finding.what for finding in findings))
    return "no page table maps RAM of another kernel's"


def _own_tree(lab: Lab) -> str:
    pair = lab.pair()
    mount(pair.spawned)
    tree = pair.spawned.channel.get(f"{MOUNT}/device_tree")
    if pair.instance.name.encode() not in tree:
        raise Absent(f"what {pair.instance.name} reads does not name it: {tree[:40]!r}")
    return f"{pair.instance.name} has a device tree of {len(tree)} bytes that names it"


def _takeover(lab: Lab) -> str:
    pair, interface = lab.pair(), interface_of(lab)
    replace_host(lab)
    interface.mount()
    state = interface.state(pair.instance.name)
    if state != "active":
        raise Absent(f"{pair.instance.name} is {state or 'unknown'} to the host's successor")
    return f"{pair.instance.name} is {state} to the host's successor"


_ALL = (
    Capability("segments", "load a spawned kernel by kexec_load(2)", _on_host(_segments)),
    Capability("fenced", "hide the machine's firmware from spawned kernels", _on_pair(_fenced)),
    Capability("spawn", "start a second Linux beside the host", _on_pair(_spawn)),
    Capability("kimage", "list loaded images in /proc", _on_host(_kimage)),
    Capability("messages", "send messages from kernel to kernel", _on_pair(_messages)),
    Capability("instances", "make instances from a device tree", _on_host(_instances)),
    Capability("read-back", "tell of its instances by a device tree", _on_host(_read_back)),
    Capability("several", "hold several images at once", _on_host(_several)),
    Capability("apart", "map no memory of each other's", _on_pair(_apart)),
    Capability("cpus", "run a spawned kernel on all of several CPUs", _on_host(_cpus)),
    Capability("remove", "remove an instance", _on_host(_remove)),
    Capability("unload", "unload an instance's image", _on_host(_unload)),
    Capability("halt", "stop a spawned kernel by asking it", _on_pair(_halt)),
    Capability("force", "stop a spawned kernel without asking it", _on_pair(_force)),
    Capability("faults", "fail on demand", _on_host(_faults)),
    Capability("machine-check", "take a machine check", _on_host(_machine_check)),
    Capability("own-tree", "tell a spawned kernel what it was granted by a device tree", _on_pair(_own_tree)),
    Capability("takeover", "take running kernels over when the host is replaced", _on_pair(_takeover)),
    Capability("ssh", "be reached by SSH", _on_host(_ssh)),
    Capability("kexec", "load an ordinary kexec image", _on_host(_kexec)),
    Capability("kho", "hand memory over to the next kernel", _on_host(_kho)),
    Capability("luo", "hand files over to the next kernel", _on_host(_luo)),
    Capability("kho-tests", "test its own handover", _on_host(_kho_tests)),
    Capability("userns", "give a process a user namespace", _on_host(_userns)),
    Capability("fault-injection", "make a system call's allocations fail", _on_host(_fault_injection)),
)
CAPABILITIES = {capability.name: capability for capability in _ALL}
"""By name. To add one: a function that tries it and returns what it saw, and a row here."""


def expected(definition: Definition) -> Mapping[str, Found]:
    """Return what a definition expects of its kernel, by name, without trying it."""
    return {name: Found(name in definition.expects, "as the definition says") for name in CAPABILITIES}


def probe(forks: Forks, progress: Progress) -> Mapping[str, Found]:
    """Return what the build of ``forks`` can do, by name; tried at the first call ever, then remembered.

    Raises HarnessError when not even the host kernel boots.
    """
    file = paths.cache() / "capabilities" / f"{_digest(forks)}.json"
    file.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(file.with_suffix(".lock")):
        try:
            return msgspec.json.decode(file.read_bytes(), type=dict[str, Found])
        except (OSError, msgspec.DecodeError):
            found = _try_all(forks, progress)
        temporary = file.with_suffix(".new")
        temporary.write_bytes(msgspec.json.encode(found))
        temporary.rename(file)
        return found


def _try_all(forks: Forks, progress: Progress) -> dict[str, Found]:
    found = {}
    with forks.lab("booted", progress), progress.step("probing what this kernel can do") as step:
        for capability in CAPABILITIES.values():
            step.update(capability.name)
            result = _try(capability, forks, progress)
            if not result.present and capability.name in forks.build.definition.expects:
                # One that is missing is remembered, and fails all tests that need it, in all runs.
                step.update(f"{capability.name} once more: {result.evidence}")
                again = _try(capability, forks, progress)
                if again.present:
                    again = Found(True, f"{again.evidence} (unstable: failed at first: {result.evidence})")
                    progress.console.print(
                        f"[yellow]{capability.name} is unstable[/yellow]: {escape(again.evidence)}"
                    )
                result = again
            found[capability.name] = result
        present = [name for name, result in found.items() if result.present]
        step.done(f"{', '.join(present) or 'nothing'}")
    return found


def _try(capability: Capability, forks: Forks, progress: Progress) -> Found:
    try:
        with attempted():
            return Found(True, capability.attempt(forks, progress))
    except HarnessError as error:
        return Found(False, error.what)


def _digest(forks: Forks) -> str:
    patterns = (*CODE, "capabilities.py", "forks.py")
    files = sorted(file for pattern in patterns for file in (paths.CHECKOUT / "harness").glob(pattern))
    code = b"".join(file.read_bytes() for file in files)
    key = f"{forks.build.digest} {msgspec.json.encode(forks.topology).decode()}"
    return hashlib.sha256(key.encode() + code).hexdigest()[:20]
