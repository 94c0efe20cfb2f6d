# SPDX-License-Identifier: MIT
"""Starting a kernel on a reserved CPU: what a start needs, what it takes, what must not be done meanwhile."""

import calendar
import time

import pytest
from msgspec.structs import replace

from harness.capabilities import interface_of
from harness.lab import Lab, Pair
from harness.multikernel import calls, segments
from harness.multikernel.dialect import Image, start_call
from harness.multikernel.interface import LOAD_LIMIT, Interface
from harness.multikernel.kernel import Kernel
from harness.multikernel.payload import FILE, Payload
from harness.oracle.processors import processors
from harness.plugin import Seen, claim
from harness.vm import gdbstub

pytestmark = pytest.mark.needs("spawn")

WATCHED = 4.0
"""Seconds over which two kernels' clocks are compared."""
DRIFT = 0.01


def start_again(pair: Pair) -> calls.Outcome:
    """Start the running kernel's instance once more."""
    return calls.call(pair.host, start_call(pair.lab.dialect, pair.instance))


def alive(pair: Pair) -> None:
    """Require that both kernels answer, the spawned one on its own CPUs."""
    assert pair.host.run("echo host") == "host"
    assert pair.spawned.run("echo spawned") == "spawned", "the spawned kernel does not answer any more"
    ram = pair.instance.ram
    inside = tuple(p.index for p in processors(pair.lab.machine) if ram.start <= p.cr3 < ram.end)
    assert inside == pair.instance.apic_ids, f"{pair.spawned.name} runs on vCPUs {inside}"


@claim("a kernel that runs is not started again", source="known bug V1-07: no record that it runs")
def test_start_twice(pair: Pair, seen: Seen) -> None:
    outcome = start_again(pair)
    seen(outcome.error or "accepted")
    assert outcome.error == "EBUSY"
    alive(pair)


@claim(
    "the host does not take a CPU back on which another kernel runs",
    source="known bug V1-07: onlining it kills the spawned kernel",
)
def test_online_a_running_cpu(pair: Pair, seen: Seen) -> None:
    cpu = pair.instance.spawned.cpus[0]
    outcome = calls.call(pair.host, f"write fdw:/sys/devices/system/cpu/cpu{cpu}/online s:1 1", limit=10)
    seen(f"echo 1 >cpu{cpu}/online: {outcome.error or 'accepted'}")
    assert not outcome.ok, f"CPU {cpu} is the host's again while {pair.spawned.name} runs on it"
    alive(pair)


@claim("the host's other CPUs come and go while a spawned kernel runs", source="interface sheet SP-R1")
def test_hotplug_beside_it(pair: Pair, seen: Seen) -> None:
    others = [cpu for cpu in range(1, pair.lab.topology.vcpus) if cpu not in pair.instance.spawned.cpus]
    online = "/sys/devices/system/cpu/cpu{}/online"
    for cpu in others * 3:
        for value in (0, 1):
            pair.host.run(f"echo {value} >{online.format(cpu)}")
    seen(f"CPUs {others}, three times each")
    alive(pair)


@claim("an instance that runs says that it is active", source="known bug V2-04: active is never set")
@pytest.mark.needs("instances")
def test_active(pair: Pair, live: Interface, seen: Seen) -> None:
    state = live.state(pair.spawned.name)
    seen(state)
    assert state == "active"


def attack(pair: Pair, what: str) -> calls.Outcome:
    """Load over the running kernel, unload its image, or remove its instance."""
    if pair.lab.dialect.numbers is not None:
        live, granted = interface_of(pair.lab), pair.instance.spawned
        if what == "remove":
            return live.remove(granted.name)
        return (live.load if what == "load" else live.unload)(granted.id)
    if what == "remove":
        pytest.skip("this series has no instances to remove")
    # The last page of its memory: told, hardly enough to kill.
    last = pair.instance.ram.end - segments.PAGE
    call = segments.UNLOAD if what == "unload" else segments.load_call(f"1@{last:#x}+{segments.PAGE}", last)
    return calls.call(pair.host, call)


@claim(
    "a kernel that runs is not loaded over, unloaded or removed",
    source="known bugs V1-07, V2-02, V2-04, C-02: its memory would be another's",
)
@pytest.mark.parametrize("what", ["load", "unload", "remove"])
def test_leave_it_alone(pair: Pair, seen: Seen, what: str) -> None:
    outcome = attack(pair, what)
    seen(f"{what}: {outcome.error or 'accepted'}")
    assert outcome.error == "EBUSY", f"{pair.spawned.name} runs: {outcome}"
    alive(pair)


@claim(
    "an ordinary kexec load leaves a running kernel alone: it stays active, and cannot be removed",
    source="known bugs V2-02, V2-04: the load frees the running kernel's image, and its state is ready",
)
@pytest.mark.needs("instances", "kexec")
def test_ordinary_load_beside_it(pair: Pair, live: Interface, seen: Seen) -> None:
    live.call("kexec_file_load fd:/boot/bzImage -1 1 s: 0x4", limit=20).require()
    state, removed = live.state(pair.spawned.name), live.remove(pair.spawned.name)
    seen(f"{state}; rmdir: {removed.error or 'accepted'}")
    assert removed.error == "EBUSY", f"its instance, which is {state}, was removed: {removed}"
    assert state == "active"
    alive(pair)


@claim(
    "a start succeeds only when the CPU has arrived in the other kernel",
    source="known bug V1-14: exec returns 0 without knowing",
)
def test_cpu_that_does_not_arrive(lab: Lab, waiting: Payload, seen: Seen) -> None:
    cpu = waiting.instance.spawned.cpus[0]
    with gdbstub.stopped(lab.machine, cpu):
        outcome = calls.call(lab.host, start_call(lab.dialect, waiting.instance), limit=LOAD_LIMIT)
    seen(f"with vCPU {cpu} standing still: {outcome.error or 'accepted'}")
    assert outcome.error == "ETIMEDOUT"
    assert lab.host.run("echo alive") == "alive"


@claim(
    "whichever of several loaded images is started, that one runs (seen from outside)",
    source="known bug V1-04: it is always the first",
)
@pytest.mark.needs("several")
def test_second_of_two(lab: Lab, seen: Seen) -> None:
    alpha = lab.topology.spawned[0]
    first = replace(alpha, memory=alpha.memory // 2)
    second = replace(first, name="bravo", id=first.id + 1, cpus=(first.cpus[0] - 1,))
    lab.topology = replace(lab.topology, spawned=(first, second))
    arguments = " ".join(lab.dialect.spawned_arguments(lab.topology, first))
    instances = [lab.dialect.grant(lab.host, lab.topology, granted) for granted in (first, second)]
    for instance in instances:
        lab.dialect.load(lab.host, instance, Image(FILE), arguments)
    lab.dialect.start(lab.host, instances[1])
    lab.machine.console(first.name).expect(r"payload: ready\r\n")
    rams = {instance.name: instance.ram for instance in instances}
    runs = {
        f"vCPU {p.index}": name
        for p in processors(lab.machine)
        for name, ram in rams.items()
        if ram.start <= p.cr3 < ram.end
    }
    seen(f"{second.name} was started: {', '.join(f'{cpu} runs {name}' for cpu, name in runs.items())}")
    assert runs == {f"vCPU {second.cpus[0]}": second.name}, "another image was started"


def uptimes(pair: Pair) -> tuple[float, float]:
    """Read both kernels' uptimes in seconds as of one moment: the host's is read before and after."""

    def read(kernel: Kernel) -> float:
        return float(kernel.read("/proc/uptime").split()[0])

    tries = []
    for _ in range(5):
        before, spawned, after = read(pair.host), read(pair.spawned), read(pair.host)
        tries.append((after - before, (before + after) / 2, spawned))
    _, host, there = min(tries)
    return host, there


@claim("a spawned kernel's clock runs as fast as its host's", source="interface sheet SP-P4: drift below 1 %")
def test_clock(pair: Pair, seen: Seen) -> None:
    first = uptimes(pair)
    time.sleep(WATCHED * pair.lab.accel.factor)
    last = uptimes(pair)
    host, there = (end - begin for begin, end in zip(first, last, strict=True))
    seen(f"{there:.2f} s while the host counted {host:.2f} s ({there / host - 1:+.2%})")
    # The reading itself is good to some hundredths of a second.
    assert abs(there - host) < DRIFT * host + 0.15


@claim("a spawned kernel knows the time of day", source="interface sheet SP-P4")
def test_time_of_day(pair: Pair, seen: Seen) -> None:
    before, there, after = (int(kernel.run("date +%s")) for kernel in (pair.host, pair.spawned, pair.host))
    # It may ask its host or the machine; a host that loses ticks while it boots lags behind the machine.
    told = pair.lab.machine.qmp.execute("qom-get", path="/machine", property="rtc-time")
    date = (told["tm_year"] + 1900, told["tm_mon"] + 1, told["tm_mday"])
    rtc = calendar.timegm((*date, told["tm_hour"], told["tm_min"], told["tm_sec"]))
    seen(f"{there - before:+d} s against its host, {there - rtc:+d} s against the machine's clock")
    assert min(before, rtc) - 2 <= there <= max(after, rtc) + 2


@claim(
    "a spawned kernel finds no firmware and no legacy devices to fight about", source="interface sheet SP-P5"
)
@pytest.mark.needs("fenced")
def test_no_firmware(pair: Pair, seen: Seen) -> None:
    found = pair.spawned.run("ls -d /sys/firmware/acpi /sys/bus/pci/devices/* /dev/rtc0 2>/dev/null || true")
    chips = pair.spawned.run("grep -E 'IO-APIC|XT-PIC' /proc/interrupts || true")
    seen(f"{found or 'no ACPI, no PCI device, no RTC'}; {chips or 'no IO-APIC, no 8259'}")
    assert not found
    assert not chips
