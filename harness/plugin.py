# SPDX-License-Identifier: MIT
"""mkharness in pytest: options, fixtures, the ``claim`` and ``needs`` markers."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import ExitStack, contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import _pytest
import pluggy
import pytest

if TYPE_CHECKING:
    from harness.build import Build
    from harness.capabilities import Found
    from harness.claims import Claims
    from harness.coverage import Collector
    from harness.diagnose.explain import Explanation
    from harness.errors import HarnessError
    from harness.forks import Forks, StageName
    from harness.lab import Lab, Pair
    from harness.multikernel.interface import Interface
    from harness.multikernel.payload import Payload
    from harness.partition import Partition
    from harness.vm.machine import Machine

# The rest of the harness is imported where it is used: a plugin is loaded by every pytest run.

Seen = Callable[[str], None]
"""A test calls ``seen("...")`` with one line of what it observed; the table of claims shows it."""

READY_LAB = pytest.StashKey["Lab"]()
"""Where `mkh demo` puts a lab that already runs."""
LAB = pytest.StashKey["Lab"]()
"""A test's machine."""
MAPPED = pytest.StashKey[bool]()
"""There is a picture of a machine's memory with two kernels, for the report."""
EXPLAINED: pytest.StashKey[Explanation] = pytest.StashKey()
"""What a test's failure was explained with."""
ITEM = pytest.StashKey[pytest.Item]()
"""The test that runs."""
CONSOLE_TAIL = "The last lines of "
"""How an error's details begin that are the end of a console."""
COLLECTOR: pytest.StashKey[Collector] = pytest.StashKey()
"""Counts which lines of the series are executed."""


def claim(text: str, *, source: str) -> pytest.MarkDecorator:
    """Say which claim a test checks, and where the claim is made (post, patch, document)."""
    return pytest.mark.claim(text, source=source)


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the options that choose the kernel and the machine."""
    group = parser.getgroup("mkharness")
    group.addoption(
        "--kernel",
        default="reference",
        help="kernel definition in kernels/, or a .toml file; +FRAGMENT adds configuration",
    )
    group.addoption(
        "--series", help="patches in place of the definition's: folder, mbox, REPO:OLDER..NEWER or message-id"
    )
    group.addoption("--base", help="Linux source folder or tarball, in place of the definition's")
    group.addoption("--bzimage", type=Path, help="image built elsewhere, in place of a definition")
    group.addoption("--vmlinux", type=Path, help="that image's vmlinux, for symbols")
    group.addoption("--dialect", help="how that image is driven, where it does not tell by itself")
    group.addoption("--topology", help="topology in kernels/topologies/, in place of the definition's")
    group.addoption("--accel", choices=["auto", "kvm", "tcg"], default="auto", help="how QEMU runs the guest")
    group.addoption(
        "--no-oracles",
        dest="oracles",
        action="store_false",
        default=True,
        help="do not look after each test from outside whether the kernels kept to their own memory and CPUs",
    )
    group.addoption(
        "--coverage",
        metavar="FOLDER",
        help="count into FOLDER which lines of the series are executed; for --kernel NAME+gcov",
    )
    group.addoption(
        "--trust",
        action="store_true",
        default=False,
        help="do not probe what the kernel can do: take what its definition expects for granted",
    )
    group.addoption(
        "--pause-on-fail",
        action="store_true",
        default=False,
        help="at a failure keep its machine, say how to attach, and wait for a person",
    )
    group.addoption("--claims", metavar="FILE", help="write the counts of claims to FILE, as JSON")
    group.addoption(
        "--report", metavar="FOLDER", help="write a page, JUnit, KTAP, KCIDB and JSON of the run into FOLDER"
    )
    group.addoption(
        "--against", metavar="FILE", help="compare with an earlier report.json in the report; for --report"
    )
    group.addoption(
        "--build", metavar="DIGEST", help="run on this very build; refuse another, whatever made it so"
    )


def pytest_configure(config: pytest.Config) -> None:
    """Declare the markers; refuse to count what has no counters."""
    config.addinivalue_line("markers", "claim(text, source): the statement that the test checks")
    config.addinivalue_line("markers", "trespass(why): a kernel leaves its own memory or CPUs in this test")
    config.addinivalue_line("markers", "needs(*capabilities): what the kernel must be able to do")
    runs_tests = hasattr(config, "workerinput") or not config.getoption("numprocesses", None)
    if "MKHARNESS_LIVE" in os.environ and runs_tests:
        from harness.doing import VARIABLE, Teller

        config.pluginmanager.register(Teller(Path(os.environ[VARIABLE])))
    if config.getoption("--pause-on-fail"):
        from harness import pause

        pause.configure(config)
    if config.getoption("--coverage"):
        _configure_coverage(config)
    if config.getoption("--report"):
        _configure_report(config)


def _configure_report(config: pytest.Config) -> None:
    from harness.errors import UsageError

    try:
        _claims(config).recorder.configure()
    except UsageError as error:
        raise pytest.UsageError(str(error)) from None


def _configure_coverage(config: pytest.Config) -> None:
    from harness import coverage
    from harness.definition import load_definition
    from harness.errors import UsageError

    # Workers have another folder to start from.
    config.option.coverage = str(config.invocation_params.dir / config.getoption("--coverage"))
    try:
        if config.getoption("--bzimage"):
            raise UsageError("--coverage needs a kernel that was built here", advice=coverage.ADVICE)
        coverage.require(load_definition(config.getoption("--kernel")))
    except UsageError as error:
        raise pytest.UsageError(str(error)) from None


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Count claims when there are any."""
    if any(item.get_closest_marker("claim") for item in items):
        _claims(config).collected(items)


def _claims(config: pytest.Config) -> Claims:
    from harness import claims

    found: Claims | None = config.pluginmanager.get_plugin(claims.NAME)
    if found is None:
        from harness.definition import load_definition
        from harness.errors import UsageError

        try:
            load_definition(config.getoption("--kernel"))
        except UsageError as error:
            raise pytest.UsageError(str(error)) from None
        found = claims.Claims(config)
        config.pluginmanager.register(found, claims.NAME)
    return found


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    """Count claims and machines in the process that hands tests out to workers."""
    from harness import interrupt
    from harness.machines import NAME, Machines

    interrupt.know_worker(node)
    _claims(node.config)
    if not node.config.pluginmanager.has_plugin(NAME):
        node.config.pluginmanager.register(Machines(node.config), NAME)


def pytest_keyboard_interrupt(excinfo: pytest.ExceptionInfo[BaseException]) -> None:
    """Let a Ctrl-C stop the workers at once; pytest's own interruptions (-x) are of other types."""
    from harness import interrupt

    if excinfo.type is KeyboardInterrupt:
        interrupt.kill_workers()


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
        with _steps(request) as progress:
            found = probe(forks, progress)
    counted = _claims(request.config)
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
    with _steps(request) as progress:
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
        _claims(request.config).recorder.runs_on(built)
    return built


@pytest.fixture(scope="session")
def forks(request: pytest.FixtureRequest, build: Build) -> Forks:
    """Machines at a stage for whoever needs one."""
    from harness.definition import load_topology
    from harness.forks import Forks
    from harness.machines import NAME, Machines
    from harness.vm.accel import choose

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
        _explain(config.stash[ITEM], machine, "setup", error)

    patience.LISTENERS.append(say)
    config.add_cleanup(lambda: patience.LISTENERS.remove(say))
    lab.FAILING.append(look)
    config.add_cleanup(lambda: lab.FAILING.remove(look))


def _explain(item: pytest.Item, lab: Lab, phase: str, error: BaseException) -> None:
    """Find out what can be of a failing test's machine, once, unless it fails as it is known to."""
    if EXPLAINED in item.stash or item.get_closest_marker("xfail"):
        return
    from harness.diagnose.explain import Explanation, explain
    from harness.diagnose.told import told_of

    try:
        item.stash[EXPLAINED] = explain(lab, told_of(item, phase, error))
    except Exception as failed:
        # Whatever is wrong with the explanation, the failure itself is to be seen.
        item.stash[EXPLAINED] = Explanation([("what happened", f"not known: {failed!r}")])


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
        with _steps(request) as progress:
            running = stack.enter_context(forks.lab(stage, progress))
        with watched(request, running):
            yield running


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, Any, Any]:
    """Forget a test's machine when the test is over: pytest keeps its items, and what they hold."""
    item.config.stash[ITEM] = item
    try:
        return (yield)
    finally:
        if LAB in item.stash:
            del item.stash[LAB]
        if EXPLAINED in item.stash:
            del item.stash[EXPLAINED]


@contextmanager
def watched(request: pytest.FixtureRequest, lab: Lab) -> Iterator[None]:
    """Have a test use ``lab``: afterwards fail it when the machine ended, a kernel complained or strayed.

    A failure of the test shows the kernels' consoles.
    """
    from harness import pause

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
        _explain(request.node, lab, "teardown", error)
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


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Print which lines of the series were executed, when that was counted."""
    folder = config.getoption("--coverage")
    if not folder or not Path(folder).is_dir() or config.getoption("--collect-only"):
        return
    from rich.console import Console

    from harness import coverage
    from harness.report import coverage as report

    terminalreporter.section("coverage")
    found = coverage.read(Path(folder))
    width = None if terminalreporter.isatty else 160
    Console(file=terminalreporter._tw._file, width=width).print(report.table(found))
    for line in report.notes(found):
        terminalreporter.write_line(line)


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
    """Explain a failure of a test with a machine, which is still there, beside it."""
    error = call.excinfo.value if call.excinfo is not None else None
    lab = item.stash.get(LAB, None)
    # What the tear-down raised was explained in it, before the machine ended.
    no_failure = (pytest.skip.Exception, pytest.exit.Exception, KeyboardInterrupt)
    if (
        lab is not None
        and call.when != "teardown"
        and error is not None
        and not isinstance(error, no_failure)
    ):
        _explain(item, lab, call.when, error)
    explanation = item.stash.get(EXPLAINED, None)
    bare = call.excinfo is not None and _shorten(item, call.excinfo, explained=explanation is not None)
    report = yield
    if bare and report.failed:
        report.longrepr = str(error)
    if not report.failed or error is None:
        return report
    if explanation is not None and explanation.sections:
        report.sections += explanation.sections
        # Another phase may fail, too, of the same machine.
        explanation.sections = []
    if lab is not None and item.config.getoption("--report"):
        from harness.recorder import consoles_of, stretches

        report.user_properties.append(("consoles", consoles_of(lab)))
        if explanation is not None and explanation.map:
            report.user_properties.append(("failed map", stretches(explanation.map)))
    return report


def _shorten(item: pytest.Item, caught: pytest.ExceptionInfo[BaseException], *, explained: bool) -> bool:
    """Leave out of an error of mkharness' its own code, and the consoles where they are shown anyway.

    Returns whether no code is left: the test's was not running.
    """
    from harness.errors import HarnessError

    option, error = item.config.getoption, caught.value
    with_machine = LAB in item.stash or item.get_closest_marker("claim") is not None
    if not isinstance(error, HarnessError) or option("fulltrace") or option("usepdb") or not with_machine:
        return False
    if explained and error.details.startswith(CONSOLE_TAIL):
        error.details = ""
    hidden = (f"{Path(__file__).parent}/", contextlib.__file__, pluggy.__path__[0], _pytest.__path__[0])
    # pytest goes back to these whatever was filtered.
    kept, entry = caught.tb, caught.tb.tb_next
    while entry is not None:
        if not entry.tb_frame.f_code.co_filename.startswith(hidden):
            kept.tb_next = entry
            kept = entry
        entry = entry.tb_next
    kept.tb_next = None
    return kept is caught.tb
