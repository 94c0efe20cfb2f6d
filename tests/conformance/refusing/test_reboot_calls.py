# SPDX-License-Identifier: MIT
"""reboot(2) with the multikernel commands and everything wrong about them: refused, and nothing hangs."""

import pytest

from harness.definition import SpawnedKernel
from harness.lab import Lab
from harness.multikernel import calls
from harness.multikernel.dialect import REBOOT_CMD_START, start_call
from harness.multikernel.interface import MAGIC1, MAGIC2, Interface
from harness.multikernel.payload import Payload, grant_payload
from harness.plugin import Seen, claim


def start(
    pointer: str, command: int = REBOOT_CMD_START, *, magic1: int = MAGIC1, magic2: int = MAGIC2
) -> str:
    return f"reboot {magic1:#x} {magic2} {command:#x} {pointer}"


def commands(mk: Interface) -> list[int]:
    numbers = mk.numbers
    return [number for number in (numbers.start, numbers.halt, numbers.force) if number is not None]


def every_call(lab: Lab, payload: Payload) -> list[str]:
    """Return the calls that would start, and where the dialect has them stop, a payload."""
    line, numbers = start_call(lab.dialect, payload.instance), lab.dialect.numbers
    stops = [] if numbers is None else [command for command in (numbers.halt, numbers.force) if command]
    return [line, *(line.replace(f"{REBOOT_CMD_START:#x}", f"{command:#x}") for command in stops)]


POINTERS = ("null", "unmapped", "kernel", "noncanonical", "hex:0100", "hex:010000")
"""Where no argument can be read: the last two end a byte or two too early, before an unmapped page."""


@claim(
    "a start with a pointer to nowhere is refused, and the next call of reboot(2) does not hang",
    source="known bug V1-02: the mutex is not released",
)
def test_pointer_to_nowhere(lab: Lab, seen: Seen) -> None:
    lines = [start(pointer) for pointer in POINTERS]
    # CAD_OFF changes nothing, and needs the same lock.
    outcomes = calls.calls(lab.host, [*lines, start("null", 0)])
    seen(", ".join(outcome.error or "accepted" for outcome in outcomes))
    assert [outcome.error for outcome in outcomes] == ["EFAULT"] * len(lines) + [""], "\n".join(
        map(str, outcomes)
    )


@claim("every multikernel command refuses a pointer to nowhere", source="reboot(2): EFAULT")
@pytest.mark.needs("instances", "halt")
def test_every_command(mk: Interface, loaded: SpawnedKernel, seen: Seen) -> None:
    for command in commands(mk):
        for pointer in POINTERS:
            outcome = mk.call(start(pointer, command))
            assert outcome.error == "EFAULT", outcome
    seen(f"{len(commands(mk))} commands, {len(POINTERS)} pointers; {loaded.name} is {mk.state(loaded.name)}")
    assert mk.state(loaded.name) == "loaded"


NOBODY = (0, 2, 4, 2047, 2048, 4096, 0x10001, 1 << 30, 0x7FFFFFFF, -1, -2147483648)


@claim(
    "a number that names no spawned kernel starts and stops nothing",
    source="RFC v2 08/16: start by id; v1 1/7: by CPU, EBUSY for one of the host's, EINVAL",
)
@pytest.mark.needs("spawn")
@pytest.mark.parametrize("number", NOBODY)
def test_nobody(lab: Lab, waiting: Payload, seen: Seen, number: int) -> None:
    good = f"i32:{lab.dialect.start_argument(waiting.instance)}"
    lines = [line.replace(good, f"i32:{number}") for line in every_call(lab, waiting)]
    outcomes = calls.calls(lab.host, lines)
    seen(f"{number}: " + ", ".join(outcome.error or "accepted" for outcome in outcomes))
    by_cpu = lab.dialect.numbers is None
    allowed = {"EBUSY"} if by_cpu and 0 <= number < lab.topology.vcpus else {"ENOENT", "EINVAL"}
    assert {outcome.error for outcome in outcomes} <= allowed, "\n".join(map(str, outcomes))


@claim("magic numbers and commands next to the real ones are refused", source="reboot(2): EINVAL")
def test_wrong_numbers(lab: Lab, seen: Seen) -> None:
    magics = [(MAGIC1 ^ 1, MAGIC2), (0, MAGIC2), (MAGIC1, MAGIC2 + 1), (MAGIC1, 0)]
    near = [REBOOT_CMD_START + 1, REBOOT_CMD_START + 2, REBOOT_CMD_START ^ 0x20, 0x4D4B0000, 0xFFFFFFFE]
    lines = [start("i32:1", magic1=one, magic2=two) for one, two in magics]
    lines += [start("i32:1", command) for command in near]
    outcomes = calls.calls(lab.host, lines)
    seen(", ".join(outcome.error or "accepted" for outcome in outcomes))
    assert {outcome.error for outcome in outcomes} == {"EINVAL"}, "\n".join(map(str, outcomes))


@claim("who has not CAP_SYS_BOOT starts and stops nothing", source="reboot(2): EPERM")
@pytest.mark.needs("spawn")
def test_unprivileged(lab: Lab, waiting: Payload, seen: Seen) -> None:
    lines = [f"uid:1000 {line}" for line in every_call(lab, waiting)]
    outcomes = calls.calls(lab.host, lines)
    seen(", ".join(outcome.error or "accepted" for outcome in outcomes))
    assert {outcome.error for outcome in outcomes} == {"EPERM"}, "\n".join(map(str, outcomes))


@claim(
    "root of a namespace starts and stops nothing",
    source="interface sheet BI-4: must be refused in a namespace",
)
@pytest.mark.needs("spawn", "userns")
@pytest.mark.parametrize("namespace", ["userns", "pidns"])
def test_namespaces(lab: Lab, waiting: Payload, seen: Seen, namespace: str) -> None:
    outcomes = calls.calls(lab.host, [f"{namespace} {line}" for line in every_call(lab, waiting)])
    seen(f"{namespace}: " + ", ".join(outcome.error or "accepted" for outcome in outcomes))
    assert {outcome.error for outcome in outcomes} <= {"EPERM", "EINVAL"}, "\n".join(map(str, outcomes))


@claim("what has no image is not started", source="RFC v1 1/7 and v2 08/16: EINVAL without an image")
@pytest.mark.needs("spawn")
def test_nothing_loaded(lab: Lab, seen: Seen) -> None:
    granted = grant_payload(lab, lab.topology.spawned[0])
    outcome = calls.call(lab.host, start_call(lab.dialect, granted.instance))
    seen(outcome.error or "accepted")
    assert outcome.error == "EINVAL"


@claim("what does not run is not stopped", source="multikernel tree: EINVAL unless active")
@pytest.mark.needs("halt", "force")
def test_stop_what_does_not_run(mk: Interface, loaded: SpawnedKernel, seen: Seen) -> None:
    outcomes = [mk.halt(loaded.id), mk.force(loaded.id)]
    seen(", ".join(outcome.error or "accepted" for outcome in outcomes))
    assert [outcome.error for outcome in outcomes] == ["EINVAL"] * 2
    assert mk.state(loaded.name) == "loaded"
