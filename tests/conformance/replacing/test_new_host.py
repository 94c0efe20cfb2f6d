# SPDX-License-Identifier: MIT
"""The host kernel is replaced by kexec, by KHO or without, while spawned kernels run beside it."""

from __future__ import annotations

import secrets
import struct
import time

import fdt
import pytest

from harness.capabilities import interface_of
from harness.definition import SpawnedKernel
from harness.lab import Lab, Pair
from harness.model import Region, common
from harness.multikernel import messaging
from harness.multikernel.interface import MOUNT, Interface, mount
from harness.multikernel.kernel import Kernel
from harness.multikernel.layout import HOST
from harness.multikernel.payload import FILE as PAYLOAD
from harness.multikernel.payload import spawn_payload
from harness.plugin import Seen, claim
from harness.replacement import await_host, jump, load, replace_host
from harness.report import gaps as report
from harness.service import counters, gaps, quiet
from harness.vm.ram import Ram, ram_of

PROMISE = "RFC v1 cover letter: zero-downtime kernel updates, the new kernel takes the old one's place"
README = "kernels/reference/README.md: the host's successor"
QUIET = 2.0
"""Seconds of the idle control before a replacement."""
MANY = 10
KHO = "/sys/kernel/debug/kho"
ENTRY, ID, CPUS, APIC_IDS, NAME, START = 8 + 344, 0, 4, 8, 264, 328
"""Where in the roster the first slot's entry is, and its fields in there. Source: kernels/reference/0014."""

pytestmark = pytest.mark.needs("spawn", "kexec")
both_ways = pytest.mark.parametrize(
    "by_kho",
    [
        pytest.param(False, id="plain", marks=pytest.mark.needs("takeover")),
        pytest.param(True, id="kho", marks=pytest.mark.needs("takeover", "kho")),
    ],
)


def beats_on(kernel: Kernel) -> bool:
    """Say whether a kernel's heart beats on, on all of its CPUs."""
    kernel.counters()
    return kernel.beats_since(kernel.heartbeat())


def facts(host: Kernel, name: str) -> dict[str, str]:
    """Return what a host says of an instance, but for its state."""
    folder = f"{MOUNT}/instances/{name}"
    tree = host.channel.get(f"{folder}/device_tree").hex()
    region = next(str(one.region) for one in host.iomem() if f"-{name}-region-" in one.name)
    return {what: host.read(f"{folder}/{what}") for what in ("id", "cpus", "memory")} | {
        "device tree": tree,
        "/proc/iomem": region,
    }


@claim("a spawned kernel serves on while the host kernel is replaced by kexec", source=PROMISE)
@pytest.mark.parametrize(
    "by_kho", [pytest.param(False, id="plain"), pytest.param(True, id="kho", marks=pytest.mark.needs("kho"))]
)
def test_serves_on(pair: Pair, seen: Seen, by_kho: bool) -> None:
    lab, alpha = pair.lab, pair.spawned
    idle = quiet(lab, {alpha.name: alpha}, QUIET)
    with gaps(lab, {alpha.name: alpha, HOST: pair.host}) as watch:
        load(lab, told=not by_kho)
        jump(lab)
        at_jump = watch[alpha.name].beats
        await_host(lab)
        meanwhile = watch[alpha.name].beats - at_jump
        watch.follow(HOST, counters(lab, pair.host))
        assert beats_on(pair.host)
    kind = f"host replaced {'by KHO' if by_kho else 'by plain kexec'}"
    records = report.keep(lab.build.digest, kind, idle, watch, [alpha.name])
    seen(
        f"{report.line(records)}; {meanwhile} beats while the host booted; it was away for "
        f"{watch[HOST].longest_ms:.0f} ms"
    )
    assert meanwhile > 0, f"{alpha.name} stood still while the new host booted: {watch[alpha.name]}"
    assert beats_on(alpha), f"{alpha.name} does not go on: {watch[alpha.name]}"


@claim(
    "the host's successor finds the running instance with its id, CPUs, memory and device tree, which is the"
    " one that the spawned kernel has",
    source=README,
)
@pytest.mark.needs("own-tree")
@both_ways
def test_found_again(pair: Pair, live: Interface, seen: Seen, by_kho: bool) -> None:
    name = pair.instance.name
    before = facts(pair.host, name)
    replace_host(pair.lab, told=not by_kho)
    live.mount()
    mount(pair.spawned)
    own = pair.spawned.channel.get(f"{MOUNT}/device_tree").hex()
    seen(f"{name} is {live.state(name)}: {before['cpus']} and {before['/proc/iomem']}")
    assert live.names() == [name]
    assert live.state(name) == "active"
    assert facts(pair.host, name) == before
    assert own == before["device tree"], (
        f"{name}'s own device_tree has {len(own) // 2} bytes, its host's of it"
        f" {len(before['device tree']) // 2}, and they differ"
    )


@claim(
    "the successor leaves CPUs alone that run other kernels: it has the others, and nobody gets them online",
    source=README,
)
@both_ways
def test_leaves_cpus(pair: Pair, seen: Seen, by_kho: bool) -> None:
    host, cpus = pair.host, pair.instance.spawned.cpus
    before = host.apic_ids()
    replace_host(pair.lab, told=not by_kho)
    refused = [host.channel.run(f"echo 1 >/sys/devices/system/cpu/cpu{cpu}/online") for cpu in cpus]
    seen(f"APIC ids {host.apic_ids()}; online: {refused[0].stderr.decode().strip()}")
    assert host.apic_ids() == before
    assert all(b"not permitted" in one.stderr for one in refused)
    assert beats_on(pair.spawned)


@claim(
    "messages sent while there was no host arrive at its successor: each once, whole and in order",
    source=README,
)
@pytest.mark.needs("messages")
@both_ways
def test_messages_of_the_gap(pair: Pair, seen: Seen, by_kho: bool) -> None:
    lab, alpha = pair.lab, pair.spawned
    words = [secrets.token_bytes(16) for _ in range(MANY)]
    load(lab, told=not by_kho)
    jump(lab)
    for word in words:
        messaging.send(alpha, lab.dialect.to_host, word)
    await_host(lab)
    messaging.wait_for(lab.host, words[-1])
    came = [one for one in messaging.received(lab.host) if one.payload in words]
    seen(f"{len(came)} of {MANY} sent meanwhile, from {sorted({one.sender for one in came})}")
    assert [one.payload for one in came] == words
    assert {one.sender for one in came} == {pair.instance.id}


@claim("messages pass both ways between a spawned kernel and its host's successor", source=README)
@pytest.mark.needs("messages")
@pytest.mark.needs("takeover", "kho")
def test_messages_afterwards(pair: Pair, seen: Seen) -> None:
    replace_host(pair.lab, told=False)
    for sender, receiver, to in (
        (pair.host, pair.spawned, pair.lab.dialect.to_spawned(pair.instance)),
        (pair.spawned, pair.host, pair.lab.dialect.to_host),
    ):
        word = secrets.token_bytes(16)
        messaging.send(sender, to, word)
        got = messaging.wait_for(receiver, word)
        seen(f"{receiver.name} got {got.payload.hex()} from {got.sender}")


@claim(
    "the successor stops a kernel that its predecessor started, and starts another in its place",
    source=README,
)
@pytest.mark.needs("halt", "force")
@pytest.mark.parametrize("how", ["halt", "force"])
@pytest.mark.needs("takeover", "kho")
def test_stopped_by_successor(pair: Pair, live: Interface, seen: Seen, how: str) -> None:
    name, id = pair.instance.name, pair.instance.id
    replace_host(pair.lab, told=False)
    live.mount()
    (live.halt if how == "halt" else live.force)(id).require()
    seen(f"{name} is {live.state(name)} after its {how}")
    assert live.state(name) == "ready"
    live.load(id, image=PAYLOAD, arguments=" ".join(pair.arguments)).require()
    live.start(id).require()
    pair.spawned.console.expect("payload: ready", timeout=10)
    assert live.state(name) == "active"


@claim(
    "the successor removes a taken over instance: CPUs and memory come back, and the memory is cleared",
    source=README,
)
@pytest.mark.needs("force", "remove")
@pytest.mark.needs("takeover", "kho")
def test_removed_by_successor(pair: Pair, live: Interface, seen: Seen) -> None:
    host, ram, region = pair.host, ram_of(pair.lab.machine), pair.instance.ram
    replace_host(pair.lab, told=False)
    live.mount()
    live.force(pair.instance.id).require()
    live.remove(pair.instance.name).require()
    left = [
        page
        for page in ram.written().tolist()
        if region.start <= page * 4096 < region.end and ram.read(page * 4096, 4096).strip(bytes(1))
    ]
    seen(f"{len(host.apic_ids())} CPUs, {len(left)} pages of {region} with something in them")
    assert len(host.apic_ids()) == pair.lab.topology.vcpus
    assert left == []
    assert not [one for one in host.iomem() if pair.instance.name in one.name]


@claim(
    "a kernel that ended while there was no host is found to have ended: how, and nothing is left running",
    source=README,
)
@pytest.mark.parametrize(
    ("how", "state"),
    [("poweroff -f", "ready"), ("echo c >/proc/sysrq-trigger", "failed")],
    ids=["poweroff", "panic"],
)
@pytest.mark.needs("takeover", "kho")
def test_ended_in_the_gap(pair: Pair, live: Interface, seen: Seen, how: str, state: str) -> None:
    lab, alpha = pair.lab, pair.spawned
    load(lab, told=False)
    jump(lab)
    with alpha.console.expected("panic|sysrq|crash|NULL|BUG|Oops", required=False):
        alpha.console.send(f"{how}\n")
        alpha.console.expect("has stopped", timeout=10)
    await_host(lab)
    live.mount()
    became = await_state(live, alpha.name, state)
    seen(f"{alpha.name} is {became}")
    assert became == state
    assert len(live.names()) == 1


@claim(
    "the successor makes and starts further instances beside those taken over, in memory of their own",
    source=README,
)
@pytest.mark.needs("several", "cpus")
@pytest.mark.needs("takeover", "kho")
def test_one_more(three: Lab, seen: Seen) -> None:
    pair = three.pair()
    replace_host(three, told=False)
    payload = spawn_payload(three, three.topology.spawned[1])
    seen(f"bravo at {payload.instance.ram}, beside {pair.instance.ram}")
    assert common([payload.instance.ram], [pair.instance.ram]) == ()
    assert payload.ticks_on()
    assert beats_on(pair.spawned)


@claim("several instances are taken over, also one with several CPUs", source=README)
@pytest.mark.needs("several", "cpus")
@pytest.mark.needs("takeover", "kho")
def test_several(three: Lab, seen: Seen) -> None:
    pair, mk = three.pair(), interface_of(three)
    payload = spawn_payload(three, three.topology.spawned[1])
    names = [pair.instance.name, payload.instance.name]
    before, beats = {name: facts(three.host, name) for name in names}, payload.beats()
    replace_host(three, told=False)
    mk.mount()
    seen(", ".join(f"{name}: {mk.state(name)}, CPUs {before[name]['cpus'].strip()}" for name in names))
    assert mk.names() == sorted(names)
    assert {name: facts(three.host, name) for name in names} == before
    assert [mk.state(name) for name in names] == ["active", "active"]
    assert payload.beats() > beats
    assert payload.ticks_on()
    assert beats_on(pair.spawned)


@claim("what an instance holds in memory is the same to the byte after the host was replaced", source=PROMISE)
@both_ways
def test_memory_is_kept(lab: Lab, mk: Interface, seen: Seen, by_kho: bool) -> None:
    payload = spawn_payload(lab, lab.topology.spawned[0])
    ram, region = ram_of(lab.machine), payload.instance.ram
    ram.write(region.start + region.size // 2, secrets.token_bytes(MANY * 4096))
    # From here on it writes nothing.
    payload.last_command("hang")
    before = contents(ram, region)
    replace_host(lab, told=not by_kho)
    after = contents(ram, region)
    changed = [page for page in before if after.get(page) != before[page]]
    seen(f"{len(before)} pages of {region} hold something, {len(changed)} of them changed")
    assert len(before) > MANY
    assert after == before


@claim("the host is replaced ten times in a row under the same running kernel", source=PROMISE)
@pytest.mark.needs("takeover", "kho")
def test_ten_times(lab: Lab, mk: Interface, seen: Seen) -> None:
    payload = spawn_payload(lab, lab.topology.spawned[0])
    name = payload.instance.name
    before = facts(lab.host, name)
    with gaps(lab, {name: payload}) as watch:
        for time in range(MANY):
            replace_host(lab, told=False)
            mk.mount()
            assert (time, mk.state(name), facts(lab.host, name)) == (time, "active", before)
    seen(f"{watch[name]} in {MANY} replacements")
    assert payload.ticks_on()


@claim(
    "an instance that does not run is not handed over: its CPU and its memory are the successor's again",
    source=README,
)
@pytest.mark.parametrize("state", ["ready", "loaded"])
@pytest.mark.needs("takeover", "kho")
def test_not_running(lab: Lab, mk: Interface, alpha: SpawnedKernel, seen: Seen, state: str) -> None:
    mk.create(alpha).require()
    if state == "loaded":
        mk.load(alpha.id).require()
    lab.granted.clear()
    replace_host(lab, told=False)
    mk.mount()
    seen(f"{mk.names() or 'none'} left, {len(lab.host.apic_ids())} CPUs")
    assert mk.names() == []
    assert len(lab.host.apic_ids()) == lab.topology.vcpus
    mk.create(alpha).require()


@claim(
    "a kernel that has stopped is not taken over, one behind its memory is found where it is, and the"
    " successor gives away only what is free",
    source=README,
)
@pytest.mark.needs("several", "cpus", "force")
@pytest.mark.needs("takeover", "kho")
def test_gap_before(three: Lab, seen: Seen) -> None:
    pair, mk = three.pair(), interface_of(three)
    gone, payload = pair.instance, spawn_payload(three, three.topology.spawned[1])
    name = payload.instance.name
    assert gone.ram.end <= payload.instance.ram.start, "the one that goes is not before the other: no gap"
    mk.force(gone.id).require()
    before = facts(three.host, name)
    replace_host(three, told=False)
    mk.mount()
    states = {one: mk.state(one) for one in mk.names()}
    seen(f"{gone.name} stopped before; the successor has {states}")
    assert states == {name: "active"}, f"{gone.name} was ready and no kernel ran there, then: {states}"
    assert facts(three.host, name) == before
    assert len(three.host.apic_ids()) == three.topology.vcpus - len(payload.instance.apic_ids)
    mk.create(gone.spawned).require()
    assert common([mk.region(gone.name)], [payload.instance.ram]) == ()
    assert payload.ticks_on()


@claim("a successor whose loading fails changes nothing: host and spawned kernels go on", source=README)
@pytest.mark.needs("instances")
def test_refused_successor(pair: Pair, live: Interface, seen: Seen) -> None:
    outcome = live.call("kexec_file_load fd:/bin/busybox -1 1 s: 0x4")
    seen(str(outcome))
    assert outcome.error == "ENOEXEC"
    assert live.state(pair.instance.name) == "active"
    assert beats_on(pair.spawned)
    assert beats_on(pair.host)


@claim("a successor that nobody told takes nothing over, and says that it has no pool", source=README)
@pytest.mark.needs("takeover")
@pytest.mark.trespass("it does not know that one of its CPUs runs another kernel, and starts it")
@pytest.mark.parametrize("by_kho", [False], ids=["plain"])
def test_not_told(pair: Pair, live: Interface, seen: Seen, by_kho: bool) -> None:
    replace_host(pair.lab, told=False)
    live.mount()
    said = pair.host.run("dmesg | grep multikernel || true")
    seen(said or "it says nothing")
    assert "no memory pool" in said
    assert live.names() == []
    refused = live.create(pair.lab.topology.spawned[0])
    assert refused.error == "ENODEV"


@claim(
    "what is handed over by KHO is a device tree of the kernels that run, as the host's files have it",
    source=README,
)
@pytest.mark.needs("takeover", "kho")
def test_tree_handed_over(three: Lab, seen: Seen) -> None:
    host, mk = three.host, interface_of(three)
    payload = spawn_payload(three, three.topology.spawned[1])
    mk.force(payload.instance.id).require()
    announced = host.channel.get(f"{KHO}/out/sub_fdts/multikernel")
    replace_host(three, told=False)
    came = host.channel.get(f"{KHO}/in/sub_fdts/multikernel")
    interface_of(three)
    name = three.pair().instance.name
    running = host.channel.get(f"{MOUNT}/instances/{name}/device_tree")
    seen(f"{len(came)} bytes, of {name} alone")
    assert came == announced
    assert fdt.parse_dtb(came).to_dts() == fdt.parse_dtb(running).to_dts()


ROSTER_BAD = {
    "no magic": (0, struct.pack("<Q", 0)),
    "an id beyond all": (ENTRY + ID, struct.pack("<I", 0x7FFF_FFFF)),
    "no CPU": (ENTRY + CPUS, struct.pack("<I", 0)),
    "more CPUs than fit": (ENTRY + CPUS, struct.pack("<I", 65)),
    "the host's own CPU": (ENTRY + APIC_IDS, struct.pack("<I", 0)),
    "memory outside of the pool": (ENTRY + START, struct.pack("<QQ", 0x100000, 64 << 20)),
    "memory beyond the pool's end": (ENTRY + START + 8, struct.pack("<Q", 1 << 62)),
    "no memory": (ENTRY + START + 8, struct.pack("<Q", 0)),
    "a name with a slash": (ENTRY + NAME, b"../x"),
    "a name without end": (ENTRY + NAME, b"x" * 64),
}


@claim(
    "nothing of what is found in memory is believed: the successor refuses a bad entry, says so and boots on",
    source=README,
)
@pytest.mark.needs("takeover")
@pytest.mark.trespass("the kernel whose entry is refused is nobody's, and its CPU is started by the host")
@pytest.mark.parametrize("what", ROSTER_BAD)
@pytest.mark.parametrize("by_kho", [False], ids=["plain"])
def test_bad_roster(lab: Lab, mk: Interface, seen: Seen, by_kho: bool, what: str) -> None:
    spawn_payload(lab, lab.topology.spawned[0])
    roster = next(one.region for one in lab.host.iomem() if one.name == "mk-roster")
    offset, data = ROSTER_BAD[what]
    load(lab, told=not by_kho)
    ram_of(lab.machine).write(roster.start + offset, data)
    jump(lab)
    await_host(lab)
    mk.mount()
    said = lab.host.run("dmesg | grep multikernel")
    seen(f"instances: {mk.names() or 'none'}; {said.splitlines()[-1]}")
    assert mk.names() == []
    assert "makes no sense" in said or "no memory pool" in said


def await_state(mk: Interface, name: str, state: str) -> str:
    """Wait until an instance has a state; return the one that it has at last."""
    limit = time.monotonic() + 10 * mk.host.factor
    while (found := mk.state(name)) != state and time.monotonic() < limit:
        time.sleep(0.1)
    return found


def contents(ram: Ram, region: Region) -> dict[int, bytes]:
    """Return the pages of a region that were ever written and are not empty, by number."""
    pages = [page for page in ram.written().tolist() if region.start <= page * 4096 < region.end]
    found = {page: ram.read(page * 4096, 4096) for page in pages}
    return {page: data for page, data in found.items() if data.strip(bytes(1))}
