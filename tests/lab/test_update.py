# SPDX-License-Identifier: MIT
"""`mkh update` on the reference: kernels are replaced while others serve, and it is told and drawn."""

from __future__ import annotations

from xml.etree import ElementTree

import pytest

from harness import update
from harness.definition import load_topology
from harness.forks import Forks
from harness.multikernel.layout import HOST
from harness.progress import Progress
from harness.report.timeline import draw


@pytest.fixture(scope="module")
def updates(forks: Forks) -> tuple[update.Update, ...]:
    return update.run(Forks(forks.build, load_topology("three"), forks.accel), Progress())


def test_nothing_is_lost_when_the_host_is_replaced(updates: tuple[update.Update, ...]) -> None:
    host, _ = updates
    assert host.lost == ()
    assert len(host.kept) == 3
    assert host.stood_still == ()
    assert {record.bystander for record in host.records} == {"alpha", "bravo"}


def test_the_old_kernel_is_lost_when_a_spawned_one_is_replaced(
    updates: tuple[update.Update, ...],
) -> None:
    _, spawned = updates
    assert [fact for fact in spawned.lost if "boot id" not in fact] == []
    assert len(spawned.lost) == 1
    assert {record.bystander for record in spawned.records} == {HOST, "bravo"}


def test_the_picture_has_a_lane_for_each(updates: tuple[update.Update, ...]) -> None:
    for one in updates:
        ElementTree.fromstring(draw(one.what, one.lanes, one.watched))
        assert {lane.name for lane in one.lanes} == {HOST, "alpha", "bravo"}
        kinds = {lane.name: {span.kind for span in lane.spans} for lane in one.lanes}
        replaced = HOST if "host" in one.what else "alpha"
        assert [name for name, found in kinds.items() if "boot" in found] == [replaced]
