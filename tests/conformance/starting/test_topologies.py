# SPDX-License-Identifier: MIT
"""Other machines than the usual one: more kernels, more CPUs in one kernel, gaps in the APIC ids."""

import re
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from msgspec.structs import replace

from harness.lab import Lab
from harness.multikernel import messaging
from harness.multikernel.kernel import Kernel
from harness.plugin import Seen, claim

pytestmark = pytest.mark.needs("spawn")

WORK = "dd if=/dev/zero of=/dev/null bs=4k count=20000 2>/dev/null"


def cpus_of(kernel: Kernel) -> int:
    return int(kernel.run("grep -c ^processor /proc/cpuinfo"))


def paces(kernel: Kernel) -> list[float]:
    """Return how fast each CPU counts for udelay(), in BogoMIPS."""
    return [float(one) for one in re.findall(r"bogomips\s*: (\S+)", kernel.read("/proc/cpuinfo"))]


@claim(
    "three spawned kernels run beside their host, none starves another, and in the one with two CPUs"
    " the second goes and comes back",
    source="issues 20 and 35 of the multikernel tree: wish list of its maintainers",
)
@pytest.mark.needs("several", "cpus")
@pytest.mark.parametrize("machine", ["trio"], indirect=True)
def test_three_at_once(machine: Lab, seen: Seen) -> None:
    spawned = [machine.pair(granted.name).spawned for granted in machine.topology.spawned]
    kernels = [machine.host, *spawned]
    for kernel in spawned:
        kernel.start_heartbeat()
    time.sleep(0.3 * machine.accel.factor)
    with ThreadPoolExecutor() as pool:
        before = list(pool.map(Kernel.heartbeat, kernels))
        list(pool.map(lambda kernel: kernel.run(WORK, timeout=30), kernels))
        after = list(pool.map(Kernel.heartbeat, kernels))
    counts = {kernel.name: cpus_of(kernel) for kernel in kernels}
    seen(", ".join(f"{name} on {count} CPUs" for name, count in counts.items()))
    assert [counts[granted.name] for granted in machine.topology.spawned] == [2, 1, 1]
    for kernel, then, now in zip(kernels, before, after, strict=True):
        assert not now.stopped_since(then) or kernel.beats_since(then), f"CPUs of {kernel.name} stand still"
    ids = [set(kernel.apic_ids()) for kernel in kernels]
    assert sum(map(len, ids)) == len(set().union(*ids)), f"a CPU is online in two kernels: {ids}"
    # Some CPUs would count at a tenth of the others' pace, had they measured it themselves beside busy ones.
    pace = {kernel.name: paces(kernel) for kernel in kernels}
    every = [one for each in pace.values() for one in each]
    assert max(every) < 1.01 * min(every), f"udelay() does not last as long on every CPU, BogoMIPS: {pace}"
    # The kernel that began first: by now the others have started beside it.
    online = "/sys/devices/system/cpu/cpu1/online"
    back = spawned[0].run(
        f"for i in 1 2; do echo 0 >{online}; echo 1 >{online} || echo CPU 1 does not come online; done 2>&1",
        timeout=30,
    )
    seen(f"its second CPU goes and comes back: {back or 'twice'}")
    assert not back, f"beside others, {spawned[0].name}: {back}"
    again = [set(kernel.apic_ids()) for kernel in kernels]
    assert again == ids, f"APIC ids of each kernel's CPUs were {ids}, and are {again}"


@claim(
    "both CPUs of a spawned kernel run its tasks, and they are those that were granted",
    source="multikernel tree: an instance with several CPUs brings all of them up",
)
@pytest.mark.needs("cpus")
@pytest.mark.parametrize("machine", ["sparse"], indirect=True)
def test_two_cpus(machine: Lab, seen: Seen) -> None:
    pair = machine.pair()
    spawned, granted = pair.spawned, pair.instance.apic_ids
    host, own = machine.host.apic_ids(), spawned.apic_ids()
    seen(f"APIC ids: host {host}, spawned {own}")
    assert own == granted, f"granted were the CPUs with APIC ids {granted}"
    # Field 39 of proc_pid_stat(5) is the CPU that the process ran on.
    told = [spawned.run(f"taskset -c {cpu} cat /proc/self/stat").split() for cpu in (0, 1)]
    where = [fields[38] for fields in told]
    interrupts = spawned.run("grep LOC: /proc/interrupts").split()[1:3]
    seen(f"tasks ran on CPUs {', '.join(where)}; timer interrupts {', '.join(interrupts)}")
    assert where == ["0", "1"]
    assert all(int(count) > 0 for count in interrupts)


@claim(
    "a machine whose APIC ids have gaps is no different",
    source="known bug V1-08: logical and APIC ids are mixed up",
)
@pytest.mark.needs("messages")
@pytest.mark.parametrize("machine", ["sparse"], indirect=True)
def test_gaps_in_apic_ids(machine: Lab, seen: Seen) -> None:
    alpha = machine.topology.spawned[0]
    machine.topology = replace(machine.topology, spawned=(replace(alpha, cpus=alpha.cpus[-1:]),))
    pair = machine.pair()
    host, spawned = machine.host.apic_ids(), pair.spawned.apic_ids()
    seen(f"APIC ids: host {host}, spawned {spawned}")
    assert sorted(host + spawned) == [0, 1, 2, 4, 5, 6], "this machine has no gaps"
    assert spawned == pair.instance.apic_ids
    messaging.send(machine.host, machine.dialect.to_spawned(pair.instance), b"over the gap")
    messaging.send(pair.spawned, machine.dialect.to_host, b"and back")
    messaging.wait_for(pair.spawned, b"over the gap")
    messaging.wait_for(machine.host, b"and back")
