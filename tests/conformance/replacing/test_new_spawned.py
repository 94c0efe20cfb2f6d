# SPDX-License-Identifier: MIT
"""A spawned kernel is replaced, by stop, load and start, while its host and a third kernel serve."""

from __future__ import annotations

import pytest

from harness import paths
from harness.build import build as build_kernel
from harness.capabilities import interface_of
from harness.definition import load_definition
from harness.lab import Lab
from harness.multikernel.dialect import Image
from harness.multikernel.layout import HOST
from harness.multikernel.payload import spawn_payload
from harness.plugin import Seen, claim, steps_shown
from harness.replacement import replace_spawned
from harness.report import gaps as report
from harness.service import gaps, quiet

PROMISE = "RFC v1 cover letter: zero-downtime kernel updates, the new kernel takes the old one's place"
NEXT = "/run/next"
"""Where the host has the newer build's image."""

pytestmark = pytest.mark.needs("spawn", "several", "cpus", "halt")


@claim(
    "a spawned kernel is replaced by another build while the host and a third kernel serve on", source=PROMISE
)
def test_newer_build(three: Lab, seen: Seen, request: pytest.FixtureRequest) -> None:
    name = f"{three.build.definition.name}-spawned"
    if not (paths.KERNELS / f"{name}.toml").exists():
        pytest.skip(f"there is no definition {name}: nothing says what to replace it by")
    with steps_shown(request) as progress:
        newer = build_kernel(load_definition(name), progress, series=request.config.getoption("--series"))
    pair, mk = three.pair(), interface_of(three)
    payload = spawn_payload(three, three.topology.spawned[1])
    before = pair.spawned.read("/proc/version")
    three.host.channel.put(NEXT, newer.bzimage.read_bytes())
    others = {HOST: three.host, payload.instance.name: payload}
    idle = quiet(three, others, 2.0)
    with gaps(three, others) as watch:
        replace_spawned(pair, mk, Image(NEXT, three.dialect.linux.initrd))
    records = report.keep(three.build.digest, "spawned kernel replaced", idle, watch, list(others))
    after = pair.spawned.read("/proc/version")
    seen(f"{after.split()[2]} in place of {before.split()[2]}; {report.line(records)}")
    assert after != before
    assert three.host.beats_since(three.host.heartbeat())
    assert payload.ticks_on()
