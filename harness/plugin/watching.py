# SPDX-License-Identifier: MIT
"""What is looked at from outside while a test uses a machine, and after it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from harness.plugin.explaining import explain_failure
from harness.plugin.stash import COLLECTOR, EXPLAINED, LAB, MAPPED

if TYPE_CHECKING:
    from harness.build import Build
    from harness.lab import Lab
    from harness.partition import Partition
    from harness.vm.machine import Machine


@contextmanager
def watched(request: pytest.FixtureRequest, lab: Lab) -> Iterator[None]:
    """Have a test use ``lab``: afterwards fail it when the machine ended, a kernel complained or strayed.

    A failure of the test shows the kernels' consoles.
    """
    from harness import pause
    from harness.malloc import tidy

    # An earlier test's machine is still there.
    tidy()
    request.node.stash[LAB] = lab
    with counted(request.config, lab.build, lab.machine), pause.torn_down(request.node, lab):
        yield from _judged(request, lab)


def _judged(request: pytest.FixtureRequest, lab: Lab) -> Iterator[None]:
    from harness.diagnose.began import BEGAN, Began
    from harness.errors import HarnessError
    from harness.partition import Partition

    marks = {name: console.mark for name, console in lab.machine.consoles.items()}
    exempt = request.node.get_closest_marker("trespass") is not None
    partition = Partition(lab) if request.config.getoption("oracles") and not exempt else None
    reach = partition is not None and request.getfixturevalue("capabilities")["apart"].present
    request.node.stash[BEGAN] = Began(marks)
    yield
    try:
        # Where the test has failed already, that is what the end of the machine was told with.
        told = request.node.stash.get(EXPLAINED, None)
        if told is None:
            _check_end(lab, marks)
        # A host that does not answer would be waited for again.
        if partition is not None and not (told and told.silent):
            _check_partition(request, partition, reach)
    except HarnessError as error:
        explain_failure(request.node, lab, "teardown", error)
        raise


@contextmanager
def counted(config: pytest.Config, build: Build, machine: Machine) -> Iterator[None]:
    """With --coverage, count which lines ``machine``'s kernels execute: afterwards, and before a host leaves.

    ``watched`` does; a test that boots a machine by itself enters this.
    """
    folder = config.getoption("--coverage")
    if not folder:
        yield
        return
    from harness import coverage, kexec

    if COLLECTOR not in config.stash:
        config.stash[COLLECTOR] = coverage.Collector(Path(folder), build)
    collector = config.stash[COLLECTOR]
    kexec.LEAVING.append(collector.look)
    try:
        yield
    finally:
        kexec.LEAVING.remove(collector.look)
        collector.add(machine)


def _check_end(lab: Lab, marks: Mapping[str, int]) -> None:
    """Fail a test whose machine ended, or whose kernels complained, without the test having said so."""
    from harness.errors import HarnessError
    from harness.vm.registers import registers_of
    from harness.vm.state import Cause

    machine = lab.machine
    ended = machine.ended()
    if ended is not None and not machine.end_awaited and machine.cause is not Cause.CLOSED:
        try:
            registers = "\n".join(map(str, registers_of(machine.qmp)))
        except HarnessError as error:
            registers = str(error)
        raise HarnessError(f"the machine ended, and the test did not expect it: {ended}", details=registers)
    for name, console in machine.consoles.items():
        splat = console.unexpected(marks.get(name, 0))
        if splat is not None:
            _, details = console.evidence(splat)
            raise HarnessError(
                f"{name} complained, and the test did not expect it: {splat.line}", details=details
            )


def _check_partition(request: pytest.FixtureRequest, partition: Partition, reach: bool) -> None:
    """Fail a test after which a kernel had not kept to its own."""
    import msgspec

    from harness.errors import HarnessError
    from harness.report.memorymap import text_of
    from harness.report.suite import Watched

    findings = partition.findings(reach=reach)
    if not partition.looked:
        return
    result = Watched(1, len(findings), reach, {area.why: area.region.size for area in partition.fixed})
    request.node.user_properties.append(("watched", msgspec.json.encode(result).decode()))
    if request.config.getoption("--report") and partition.lab.pairs and MAPPED not in request.config.stash:
        from harness.recorder import map_of

        request.config.stash[MAPPED] = True
        request.node.user_properties.append(("map", map_of(partition)))
    if findings:
        what = "; ".join(finding.what for finding in findings)
        details = [*map(str, findings), "The machine's memory:", text_of(partition.map())]
        raise HarnessError(f"seen from outside: {what}", details="\n".join(details))
