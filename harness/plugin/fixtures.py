# SPDX-License-Identifier: MIT
"""What tests ask for: the build, what its kernel can do, and machines."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, nullcontext
from typing import TYPE_CHECKING, Any

import pytest

from harness.plugin.claims import claims_of
from harness.plugin.explaining import explain_failure
from harness.plugin.stash import ITEM, READY_LAB
from harness.plugin.watching import watched

if TYPE_CHECKING:
    from harness.build import Build
    from harness.capabilities import Found
    from harness.errors import HarnessError
    from harness.forks import Forks, StageName
    from harness.lab import Lab, Pair
    from harness.multikernel.interface import Interface
    from harness.multikernel.payload import Payload


@pytest.fixture(autouse=True)
def _needs(request: pytest.FixtureRequest) -> None:
    """Skip a test whose kernel need not have all that it needs; fail it when the kernel should."""
    needed = {name for marker in request.node.iter_markers("needs") for name in marker.args}
    if "pair" in request.fixturenames:
        needed.add("spawn")
    if not needed:
        return
    expected = set(request.getfixturevalue("build").definition.expects)
    if request.config.stash.get(READY_LAB, None) is not None:
        missing = sorted(needed - expected)
        if missing:
            pytest.skip(f"the kernel's definition does not expect: {', '.join(missing)}")
        return
    found: Mapping[str, Found] = request.getfixturevalue("capabilities")
    unknown = sorted(needed - found.keys())
    if unknown:
        pytest.fail(
            f"there is no capability {', '.join(unknown)}: see harness/capabilities.py", pytrace=False
        )
    absent = [name for name in sorted(needed) if not found[name].present]
    unexpected = [name for name in absent if name not in expected]
    if unexpected:
        pytest.skip("; ".join(f"the kernel has no {name!r}: {found[name].evidence}" for name in unexpected))
    for name in absent:
        pytest.fail(f"the kernel should have {name!r}, and has not: {found[name].evidence}", pytrace=False)


@pytest.fixture(scope="session")
def capabilities(request: pytest.FixtureRequest, forks: Forks) -> Mapping[str, Found]:
    """What the kernel under test can do, by name."""
    from harness.capabilities import expected, probe

    if request.config.getoption("--trust"):
        found = expected(forks.build.definition)
    else:
        with steps_shown(request) as progress:
            found = probe(forks, progress)
    counted = claims_of(request.config)
    counted.capabilities = {name: result.present for name, result in found.items()}
    counted.build, counted.skips = forks.build.digest, forks.build.definition.skips
    counted.recorder.can(found)
    return found


@pytest.fixture(scope="session")
def build(request: pytest.FixtureRequest) -> Build:
    """The kernel under test, built or taken from the store."""
    ready = request.config.stash.get(READY_LAB, None)
    if ready is not None:
        return ready.build
    from harness.build import build as build_kernel
    from harness.build.source import parse_base
    from harness.definition import load_definition

    option = request.config.getoption
    base = option("--base")
    with steps_shown(request) as progress:
        if option("--bzimage") is not None:
            from harness.build.own import own_build

            built = own_build(option("--bzimage"), option("--vmlinux"), option("--dialect"), progress)
        else:
            built = build_kernel(
                load_definition(option("--kernel")),
                progress,
                series=option("--series"),
                base=parse_base(base) if base else None,
            )
    if option("--report") or option("--build"):
        claims_of(request.config).recorder.runs_on(built)
    return built


@pytest.fixture(scope="session")
def forks(request: pytest.FixtureRequest, build: Build) -> Forks:
    """Machines at a stage for whoever needs one."""
    from harness.definition import load_topology
    from harness.forks import Forks
    from harness.machines import NAME, Machines
    from harness.malloc import give_back
    from harness.vm.accel import choose

    give_back()
    topology = load_topology(request.config.getoption("--topology") or build.definition.topology)
    made = Forks(build, topology, choose(request.config.getoption("--accel")))
    _listen(request.config)
    request.config.pluginmanager.register(Machines(request.config, made), NAME)
    return made


def _listen(config: pytest.Config) -> None:
    """Explain why a machine does not get to its stage, and show that a long wait goes on."""
    from harness import lab
    from harness.vm import patience

    capture = config.pluginmanager.get_plugin("capturemanager")

    def say(line: str) -> None:
        with capture.global_and_fixture_disabled() if capture is not None else nullcontext():
            print(f"\n  {config.stash[ITEM].nodeid}: {line}", file=sys.stderr, flush=True)

    def look(machine: Lab, error: HarnessError) -> None:
        explain_failure(config.stash[ITEM], machine, "setup", error)

    patience.LISTENERS.append(say)
    config.add_cleanup(lambda: patience.LISTENERS.remove(say))
    lab.FAILING.append(look)
    config.add_cleanup(lambda: lab.FAILING.remove(look))


@pytest.fixture
def lab(request: pytest.FixtureRequest) -> Iterator[Lab]:
    """A machine of the test's own whose host kernel is up, to do with as the test likes."""
    with _machine(request, "booted") as running:
        yield running


@pytest.fixture
def pair(request: pytest.FixtureRequest) -> Iterator[Pair]:
    """A host kernel and the topology's first spawned kernel, both alive, on a machine of the test's own."""
    with _machine(request, "spawned") as running:
        yield running.pair()


@pytest.fixture
def payload(lab: Lab) -> Payload:
    """The payload, running in place of the topology's first spawned kernel on a machine of the test's own."""
    from harness.multikernel.payload import spawn_payload

    return spawn_payload(lab, lab.topology.spawned[0])


@pytest.fixture
def mk(lab: Lab) -> Interface:
    """The multikernel interface of ``lab``'s host kernel, call by call; its file system is mounted."""
    from harness.capabilities import interface_of

    return interface_of(lab)


@contextmanager
def _machine(request: pytest.FixtureRequest, stage: StageName) -> Iterator[Lab]:
    ready = request.config.stash.get(READY_LAB, None)
    if ready is not None:
        yield ready
        return
    forks: Forks = request.getfixturevalue("forks")
    with ExitStack() as stack:
        with steps_shown(request) as progress:
            running = stack.enter_context(forks.lab(stage, progress))
        with watched(request, running):
            yield running


class steps_shown:
    """Let builds and boots show their steps although pytest captures the output."""

    def __init__(self, request: pytest.FixtureRequest) -> None:
        self._capture: Any = request.config.pluginmanager.get_plugin("capturemanager")

    def __enter__(self) -> Any:
        from harness.progress import Progress

        if self._capture is not None:
            self._capture.suspend_global_capture(in_=False)
        return Progress()

    def __exit__(self, *_: object) -> None:
        if self._capture is not None:
            self._capture.resume_global_capture()
