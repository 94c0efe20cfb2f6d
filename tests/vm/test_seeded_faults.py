# SPDX-License-Identifier: MIT
"""The seeded faults fit the series; twelve of them are caught by the claims that caught them before.

The whole set is `make selfcheck`.
"""

from pathlib import Path

import pytest

from harness import paths, seeded
from harness.build import applied_series
from harness.definition import load_definition
from harness.progress import Progress
from harness.selfcheck import try_claim

FAULTS = seeded.find()


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
def test_applies_on_top_of_the_reference(fault: seeded.Fault, tmp_path: Path) -> None:
    reference = load_definition("reference")
    assert reference.series is not None
    series = seeded.on_top(fault, Path(reference.series), tmp_path / "series")
    applied = applied_series(reference, Progress(Progress.quiet_console()), series=series)
    assert not applied.failed, applied.report[-1]
    assert applied.report[-1].patch == f"{fault.name}.patch"
    assert not applied.report[-1].unclean


DOZEN = {
    "faults-nmi-wrong-pin": "faults/test_global_state.py::test_nmi_of_the_machine",
    "files-dt-heap-tail": "files/test_instances_files.py::test_device_trees_told",
    "handover-incompatible-accepted": "handover/test_bad_trees.py::test_tree",
    "isolation-rtc-written": "isolation/test_neighbours.py::test_clock_of_the_machine",
    "loading-used-forgotten": "loading/test_memory_of_images.py::test_nothing_left",
    "memory-release-rounded": "memory/test_pool_accounting.py::test_every_size",
    "messages-stale-for-successor": "messages/test_absent_receivers.py::test_hung",
    "refusing-kexec-lock-kept": "refusing/test_errors.py::test_loads",
    "refusing-memory-bytes-32bit": "refusing/test_device_trees.py::test_memory",
    "replacing-spawned-tree-too-long": "replacing/test_new_host.py::test_found_again",
    "starting-e820-last-byte": "starting/test_handed_over.py::test_memory_map_is_the_grant",
    "stopping-signal-swallowed": "stopping/test_stops.py::test_interrupted_halt",
}
"""A fault, and the claim that caught it, quickly."""


@pytest.mark.parametrize("name", DOZEN)
def test_is_caught(name: str) -> None:
    fault = seeded.read(paths.FAULTS / f"{name}.patch")
    found = try_claim(load_definition("reference"), fault, DOZEN[name], Progress())
    assert found, f"{DOZEN[name]} holds on a kernel that has this fault: {fault.breaks}"
    assert fault.points_at(found[0].text), f"the failure does not point at {fault.breaks}:\n{found[0].text}"
