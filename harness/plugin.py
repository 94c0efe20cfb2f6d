# SPDX-License-Identifier: MIT
"""mkharness in pytest: options, fixtures, the ``claim`` and ``needs`` markers, the table of claims."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from harness.model import Verdict

if TYPE_CHECKING:
    from harness.build import Build
    from harness.forks import Forks, StageName
    from harness.lab import Lab, Pair

# The rest of the harness is imported where it is used: a plugin is loaded by every pytest run.

Seen = Callable[[str], None]
"""A test calls ``seen("...")`` with one line of what it observed; the table of claims shows it."""

READY_LAB = pytest.StashKey["Lab"]()
"""Where `mkh demo` puts a lab that already runs."""
FORKS = pytest.StashKey["Forks"]()
"""The run's machines, for the summary."""


def claim(text: str, *, source: str) -> pytest.MarkDecorator:
    """Say which claim a test checks, and where the claim is made (post, patch, document)."""
    return pytest.mark.claim(text, source=source)


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the options that choose the kernel and the machine."""
    group = parser.getgroup("mkharness")
    group.addoption("--kernel", default="reference", help="kernel definition in kernels/, or a .toml file")
    group.addoption("--series", type=Path, help="folder or mbox of patches, in place of the definition's")
    group.addoption("--base", help="Linux source folder or tarball, in place of the definition's")
    group.addoption("--topology", help="topology in kernels/topologies/, in place of the definition's")
    group.addoption("--accel", choices=["auto", "kvm", "tcg"], default="auto", help="how QEMU runs the guest")


def pytest_configure(config: pytest.Config) -> None:
    """Declare the markers."""
    config.addinivalue_line("markers", "claim(text, source): the statement that the test checks")
    config.addinivalue_line("markers", "needs(*capabilities): what the kernel must be able to do")


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Put the claim into every report, and skip what the kernel's definition does not expect."""
    marker = item.get_closest_marker("claim")
    if marker is not None:
        item.user_properties += [("claim", marker.args[0]), ("source", marker.kwargs["source"])]
    needed = {name for marker in item.iter_markers("needs") for name in marker.args}
    if needed:
        from harness.definition import load_definition

        definition = load_definition(item.config.getoption("--kernel"))
        absent = sorted(needed - set(definition.expects))
        if absent:
            pytest.skip(f"kernel {definition.name} does not expect: {', '.join(absent)}")


@pytest.fixture(scope="session")
def build(request: pytest.FixtureRequest) -> Build:
    """The kernel under test, built or taken from the store."""
    from harness.build import build as build_kernel
    from harness.build.source import parse_base
    from harness.definition import load_definition

    option = request.config.getoption
    base = option("--base")
    with _steps(request) as progress:
        return build_kernel(
            load_definition(option("--kernel")),
            progress,
            series=option("--series"),
            base=parse_base(base) if base else None,
        )


@pytest.fixture(scope="session")
def forks(request: pytest.FixtureRequest, build: Build) -> Forks:
    """Machines at a stage for whoever needs one."""
    from harness.definition import load_topology
    from harness.forks import Forks
    from harness.vm.accel import choose

    topology = load_topology(request.config.getoption("--topology") or build.definition.topology)
    made = Forks(build, topology, choose(request.config.getoption("--accel")))
    request.config.stash[FORKS] = made
    return made


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


@contextmanager
def _machine(request: pytest.FixtureRequest, stage: StageName) -> Iterator[Lab]:
    ready = request.config.stash.get(READY_LAB, None)
    if ready is not None:
        yield ready
        return
    forks: Forks = request.getfixturevalue("forks")
    with ExitStack() as stack:
        with _steps(request) as progress:
            running = stack.enter_context(forks.lab(stage, progress))
        yield running


@pytest.fixture
def seen(request: pytest.FixtureRequest) -> Seen:
    """Record one line of what the test saw."""

    def record(text: str) -> None:
        request.node.user_properties.append(("seen", text))

    return record


class _steps:
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


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Show the consoles' last lines beside a failure."""
    report = yield
    running = getattr(item, "funcargs", {}).get("pair")
    if report.failed and running is not None:
        for kernel in (running.host, running.spawned):
            report.sections.append((f"console of {kernel.name}", kernel.console.tail(40)))
    return report


def verdicts(reports: Iterable[pytest.TestReport]) -> list[Verdict]:
    """Return the verdicts on claims that a run's test reports carry."""
    found = []
    for report in reports:
        # What could not be collected is no test and has no properties.
        properties = getattr(report, "user_properties", [])
        claims = [value for key, value in properties if key == "claim"]
        if not claims or report.skipped or (report.when != "call" and report.passed):
            continue
        seen = [str(value) for key, value in properties if key == "seen"]
        crash = getattr(report.longrepr, "reprcrash", None)
        if crash is not None:
            seen.append(crash.message.partition("\n")[0])
        sources = [value for key, value in properties if key == "source"]
        found.append(Verdict(str(claims[0]), str(sources[0]), report.passed, "; ".join(seen)))
    return found


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Print the table of claims below the tests, and what became of machines."""
    forks = config.stash.get(FORKS, None)
    if forks is not None:
        terminalreporter.write_line(
            f"machines: {forks.booted} booted, {forks.forked} forked, {forks.failed} forks failed to resume"
        )
    reports = [
        report for kind in ("passed", "failed", "error") for report in terminalreporter.stats.get(kind, [])
    ]
    found = verdicts(reports)
    if found:
        from rich.console import Console

        from harness.report.claims import claims_table

        width = None if terminalreporter.isatty else 140
        terminalreporter.section("claims")
        Console(file=terminalreporter._tw._file, width=width).print(claims_table(found))
