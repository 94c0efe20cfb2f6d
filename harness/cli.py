# SPDX-License-Identifier: MIT
"""The `mkh` command. Every command is thin: it reads options and calls the room that does the work."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import msgspec
from cyclopts import App, Parameter
from rich.markup import escape

from harness.errors import HarnessError
from harness.progress import Progress

if TYPE_CHECKING:
    from harness.build import Build

app = App(
    name="mkh",
    help="Build, boot and judge Linux trees that carry a multikernel patch series.",
    version_flags=[],
)

Kernel = Annotated[
    str,
    Parameter(
        help="Kernel definition in kernels/, or a .toml file; +FRAGMENT adds configuration (reference+kasan)."
    ),
]
Series = Annotated[
    str | None,
    Parameter(
        help="Patches in place of the definition's: folder, mbox, REPOSITORY:OLDER..NEWER or message-id."
    ),
]
BaseText = Annotated[
    str | None,
    Parameter(help="Linux source folder, tarball or git REPOSITORY@REVISION, in place of the definition's."),
]
TopologyName = Annotated[
    str | None, Parameter(help="Topology in kernels/topologies/, in place of the definition's.")
]
Image = Annotated[Path | None, Parameter(help="Image built elsewhere (a bzImage), in place of a definition.")]
Vmlinux = Annotated[Path | None, Parameter(help="That image's vmlinux, for symbols.")]
DialectName = Annotated[
    str | None, Parameter(help="How that image is driven, where it does not tell by itself.")
]
AccelName = Annotated[Literal["auto", "kvm", "tcg"], Parameter(help="How QEMU runs the guest.")]


app.command("harness.cli_series:app", name="series")
app.command("harness.cli_store:app", name="store")
app.command("harness.cli_selfcheck:selfcheck", name="selfcheck")


def _build(
    kernel: str, series: str | None, base: str | None, progress: Progress, *, refresh: bool = False
) -> Build:
    from harness.build import build
    from harness.build.source import parse_base
    from harness.definition import load_definition

    definition = load_definition(kernel)
    return build(
        definition, progress, series=series, base=parse_base(base) if base else None, refresh=refresh
    )


def _chosen(
    built: Build,
    kernel: str,
    *,
    series: str | None,
    base: str | None,
    bzimage: Path | None,
    vmlinux: Path | None,
) -> list[str]:
    """Return the options of pytest that choose the same kernel."""
    if bzimage is None:
        given = {"--kernel": kernel, "--series": series, "--base": base}
    else:
        given = {"--kernel": built.definition.name, "--bzimage": str(bzimage)}
        given |= {"--vmlinux": str(vmlinux) if vmlinux else None, "--dialect": built.definition.dialect}
    return [word for option, value in given.items() if value for word in (option, value)]


@app.command
def demo(
    *,
    kernel: Kernel = "reference",
    series: Series = None,
    base: BaseText = None,
    bzimage: Image = None,
    vmlinux: Vmlinux = None,
    dialect: DialectName = None,
    topology: TopologyName = None,
    accel: AccelName = "auto",
) -> int:
    """Boot a host kernel, start a second kernel beside it, and check what the series claims."""
    from harness import demo as demonstration
    from harness.definition import load_topology
    from harness.vm.accel import choose

    progress = Progress()
    chosen = choose(accel)
    progress.console.print(f"acceleration: {escape(chosen.verdict)}")
    if bzimage is not None:
        from harness.build.own import own_build

        built = own_build(bzimage, vmlinux, dialect, progress)
    else:
        built = _build(kernel, series, base, progress)
    machine = load_topology(topology or built.definition.topology)
    options = _chosen(built, kernel, series=series, base=base, bzimage=bzimage, vmlinux=vmlinux)
    return 0 if demonstration.run(built, machine, chosen, options, progress) else 1


@app.command(name="map")
def map_command(
    *,
    kernel: Kernel = "reference",
    series: Series = None,
    base: BaseText = None,
    topology: TopologyName = None,
    accel: AccelName = "auto",
) -> int:
    """Start a spawned kernel and draw who claims, maps and writes which memory, seen from outside."""
    from rich.console import Console as Display

    from harness.definition import load_topology
    from harness.forks import Forks
    from harness.partition import Partition
    from harness.report.memorymap import draw
    from harness.vm.accel import choose

    progress = Progress()
    built = _build(kernel, series, base, progress)
    machine = load_topology(topology or built.definition.topology)
    with Forks(built, machine, choose(accel)).lab("spawned", progress) as lab:
        lab.pair()
        partition = Partition(lab)
        findings, parts = partition.findings(), partition.map()
    display = Display(width=None if sys.stdout.isatty() else 160)
    display.print(draw(parts))
    for finding in findings:
        display.print(f"finding: {finding}", markup=False, highlight=False, soft_wrap=True)
    return 1 if findings else 0


@app.command
def bench(
    *,
    kernel: Kernel = "reference",
    series: Series = None,
    base: BaseText = None,
    topology: TopologyName = None,
    accel: AccelName = "auto",
    rounds: Annotated[
        int, Parameter(help="How often each thing is measured; 10 at least for a verdict.")
    ] = 10,
    build: Annotated[bool, Parameter(help="Measure an edit and build instead of machines.")] = False,
    messages: Annotated[bool, Parameter(help="Measure messages between kernels alone.")] = False,
    json: Annotated[bool, Parameter(help="Print one JSON object of the figures.")] = False,
) -> int:
    """Measure what the harness costs, and what a message does, as ratios within this run."""
    from harness import bench as measuring
    from harness import bench_messages, bench_oracles
    from harness.definition import load_topology
    from harness.forks import Forks
    from harness.vm.accel import choose

    progress = Progress()
    sent = None
    if build:
        from harness import bench_build
        from harness.definition import load_definition

        figures = bench_build.run(load_definition(kernel), progress, rounds)
    else:
        built = _build(kernel, series, base, progress)
        machine = load_topology(topology or built.definition.topology)
        forks = Forks(built, machine, choose(accel))
        chosen = _chosen(built, kernel, series=series, base=base, bzimage=None, vmlinux=None)
        figures = []
        if not messages:
            figures += measuring.run(forks, progress, rounds)
            figures += bench_oracles.run(forks, chosen, progress, rounds)
        sent = bench_messages.run(forks, progress, rounds)
    if json:
        told = {figure.key: figure.value for figure in figures} | ({"messages": sent} if sent else {})
        print(msgspec.json.encode(told).decode())
    else:
        if figures:
            progress.console.print(measuring.table(figures))
        progress.console.print(bench_messages.shown(sent) if sent else "messages: not measured")
    return 0 if all(figure.good for figure in figures) else 1


@app.command
def isolation(
    *,
    kernel: Kernel = "reference",
    series: Series = None,
    base: BaseText = None,
    topology: TopologyName = None,
    accel: AccelName = "auto",
    markdown: Annotated[
        bool, Parameter(negative="", help="Print the table and its evidence as text.")
    ] = False,
    json: Annotated[bool, Parameter(help="Print one JSON object of the table.")] = False,
) -> int:
    """Try what one kernel can do to another; print what keeps it off: a property, not a verdict."""
    from harness import isolation as trying
    from harness.definition import load_topology
    from harness.forks import Forks
    from harness.report import isolation as report
    from harness.vm.accel import choose

    progress = Progress()
    built = _build(kernel, series, base, progress)
    machine = load_topology(topology or built.definition.topology)
    found = trying.run(Forks(built, machine, choose(accel)), progress)
    if json:
        print(msgspec.json.encode(found).decode())
    elif markdown:
        print(report.markdown(found))
    else:
        progress.console.print(report.table(found))
        for line in report.evidence(found):
            print(line)
    return 0


@app.command
def update(
    *,
    kernel: Kernel = "reference",
    series: Series = None,
    base: BaseText = None,
    topology: TopologyName = "three",
    accel: AccelName = "auto",
    kho: Annotated[bool, Parameter(help="Replace the host by KHO, or by plain kexec.")] = True,
    pictures: Annotated[
        Path | None, Parameter(help="Folder for a picture (SVG) of each replacement, a lane for each kernel.")
    ] = None,
) -> int:
    """Replace the host kernel, then a spawned one, while the others serve; print who stood still how long."""
    from harness import update as updating
    from harness.definition import load_topology
    from harness.forks import Forks
    from harness.replacement import WITHOUT_KHO
    from harness.report import timeline
    from harness.vm.accel import choose

    progress = Progress()
    built = _build(kernel, series, base, progress)
    machine = load_topology(topology or "three")
    if not kho:
        machine = msgspec.structs.replace(machine, arguments=(WITHOUT_KHO,))
    done = updating.run(Forks(built, machine, choose(accel)), progress)
    for one in done:
        print("\n".join(one.lines))
        if pictures is not None:
            pictures.mkdir(parents=True, exist_ok=True)
            file = pictures / f"{one.what.replace(' ', '-').replace(',', '')}.svg"
            file.write_text(timeline.draw(one.what, one.lanes, one.watched), encoding="utf-8")
            print(f"picture: {file}")
    return 1 if any(one.stood_still for one in done) else 0


@app.command(name="build")
def build_command(
    kernel: Kernel = "reference",
    *,
    series: Series = None,
    base: BaseText = None,
    refresh: Annotated[bool, Parameter(help="Look for newer source than was fetched before.")] = False,
    each: Annotated[
        bool,
        Parameter(
            help="Build after every patch in turn, and name the first that breaks the build; stores nothing."
        ),
    ] = False,
    json: Annotated[bool, Parameter(help="Print one JSON object about the build.")] = False,
) -> int:
    """Build a kernel definition, or find it in the store; print the folder with its bzImage and vmlinux."""
    started = time.perf_counter()
    if each:
        return _build_each(kernel, series, base, json)
    built = _build(kernel, series, base, Progress(), refresh=refresh)
    if not json:
        print(built.folder)
        return 0
    told = {
        "definition": built.definition.name,
        "digest": built.digest,
        "image": str(built.bzimage),
        "vmlinux": str(built.vmlinux),
        "initrd": str(built.initrd),
        "host_initrd": str(built.host_initrd),
        "version": built.version,
        "spawned_version": built.spawned_version,
        "source": built.source,
        "seconds": round(time.perf_counter() - started, 3),
        "reused": built.reused,
        "apply_report": built.apply_report,
    }
    print(msgspec.json.encode(told).decode())
    return 0


def _build_each(kernel: str, series: str | None, base: str | None, json: bool) -> int:
    from harness.build import parse_base
    from harness.build.each import build_each
    from harness.definition import load_definition

    given = parse_base(base) if base else None
    built = build_each(load_definition(kernel), Progress(), series=series, base=given)
    if json:
        print(msgspec.json.encode(built).decode())
    else:
        print(f"{len(built) - 1} patches, and the kernel builds after each of them")
    return 0


@app.command(name="test")
def judge(
    *arguments: Annotated[
        str, Parameter(allow_leading_hyphen=True, help="Passed on to pytest: -k, -x, files.")
    ],
    kernel: Kernel = "reference",
    series: Series = None,
    base: BaseText = None,
    bzimage: Image = None,
    vmlinux: Vmlinux = None,
    dialect: DialectName = None,
    topology: TopologyName = None,
    accel: AccelName = "auto",
    listing: Annotated[bool, Parameter("--list", negative="", help="List the claims; run nothing.")] = False,
    against: Annotated[
        str | None,
        Parameter(
            help="Compare with another kernel definition, an earlier build's digest, or a --json file."
        ),
    ] = None,
    workers: Annotated[
        int | None,
        Parameter(["--workers", "-n"], help="Processes that share the tests; one more than cores, else."),
    ] = None,
    coverage: Annotated[
        Path | None,
        Parameter(help="Count into this folder which lines of the series are executed; for NAME+gcov."),
    ] = None,
    retry: Annotated[
        bool,
        Parameter(
            negative="", help="Try what failed once more by itself; what holds then is unstable, no success."
        ),
    ] = False,
    json: Annotated[bool, Parameter(help="End with one JSON object of the counts.")] = False,
) -> int:
    """Judge a kernel by the conformance suite; exit status 0 only when every claim held."""
    from harness import testing
    from harness.report import suite

    progress = Progress()
    if listing:
        found = testing.collect(kernel)
        progress.console.print(suite.claims_list(found), soft_wrap=False)
        print(f"{len(found)} claims")
        return 0
    if coverage is not None:
        _require_counters(kernel, bzimage)
    before = testing.recall(against) if against else None
    if bzimage is not None:
        from harness.build.own import own_build

        built = own_build(bzimage, vmlinux, dialect, progress)
    else:
        built = _build(kernel, series, base, progress)
    common = ["--accel", accel, *(["--topology", topology] if topology else []), *arguments]
    if against and before is None:
        other = _build(against, None, None, progress)
        _, before = testing.run(other, ["--kernel", against, *common], progress, workers=workers)
    options = _chosen(built, kernel, series=series, base=base, bzimage=bzimage, vmlinux=vmlinux)
    options += ["--coverage", str(coverage.absolute())] if coverage is not None else []
    status, now = testing.run(built, [*options, *common], progress, workers=workers, retry=retry)
    unstable = [key for key, outcome in now.outcomes.items() if outcome == "unstable"]
    if unstable:
        progress.console.print(
            f"unstable, for they failed and then held: {', '.join(unstable)}", markup=False
        )
    if before is not None:
        progress.console.print(testing.comparison(now, before))
        new = testing.new_failures(now.outcomes, before.outcomes)
        progress.console.print(f"{len(new)} new failures")
        status = 1 if new or now.not_run else 0
    if json:
        print(msgspec.json.encode(now).decode())
    return status


def _require_counters(kernel: str, bzimage: Path | None) -> None:
    from harness import coverage
    from harness.definition import load_definition
    from harness.errors import UsageError

    if bzimage is not None:
        raise UsageError("--coverage needs a kernel that was built here", advice=coverage.ADVICE)
    coverage.require(load_definition(kernel))


@app.command(name="coverage")
def coverage_command(
    folder: Path,
    /,
    *,
    lines: Annotated[bool, Parameter(negative="", help="Show the lines that were not executed.")] = False,
    json: Annotated[bool, Parameter(help="Print one JSON object.")] = False,
) -> int:
    """Show which lines of the series tests executed that ran with --coverage FOLDER."""
    from rich.console import Console as Display

    from harness import coverage
    from harness.report import coverage as report

    found = coverage.read(folder)
    if json:
        print(report.json(found))
        return 0
    Display(width=None if sys.stdout.isatty() else 160).print(report.table(found))
    for line in (*report.notes(found), *(report.lines(found, folder) if lines else ())):
        print(line)
    return 0


@app.command
def runs(
    *,
    kernel: Kernel = "reference",
    series: Series = None,
    base: BaseText = None,
    gaps: Annotated[
        bool,
        Parameter(
            negative="", help="How long other kernels stood still at each fault and replacement instead."
        ),
    ] = False,
) -> int:
    """Show how often each area of the suite was run on a build, and how often it failed."""
    from rich.console import Console as Display

    from harness.report import gaps as report
    from harness.report import history

    built = _build(kernel, series, base, Progress())
    display = Display(width=None if sys.stdout.isatty() else 160)
    if gaps:
        display.print(report.table(report.read(built.digest)))
        return 0
    found = history.read(built.digest)
    display.print(history.table(found))
    return 1 if any(run.failures for run in found if run.suite == history.suite_digest()) else 0


@app.command(name="check")
def check_command(
    kernel: Kernel = "reference",
    *,
    series: Series = None,
    base: BaseText = None,
    sparse: Annotated[
        bool, Parameter(negative="", help="Only sparse, over the C files that the series touches.")
    ] = False,
    checkpatch: Annotated[bool, Parameter(negative="", help="Only checkpatch, over the patches.")] = False,
) -> int:
    """Run checkpatch and sparse over a series; print what is new, and exit with status 1 if anything is."""
    from harness.build import applied_series, check
    from harness.build.source import parse_base
    from harness.definition import load_definition

    progress = Progress()
    definition = load_definition(kernel)
    applied = applied_series(definition, progress, series=series, base=parse_base(base) if base else None)
    remarks: list[check.Remark] = []
    if checkpatch or not sparse:
        remarks += check.checkpatch(applied.source.tree, applied.series.patches, progress)
    if sparse or not checkpatch:
        remarks += check.sparse(definition, applied, progress)
    for remark in remarks:
        print(remark)
    return 1 if remarks else 0


def main() -> None:
    """Run `mkh`; exit status 0, 1 when something fails, 2 when the question makes no sense."""
    progress = Progress()
    try:
        status = app()
    except HarnessError as error:
        progress.console.print("[red]error:[/red]", escape(str(error)), soft_wrap=True)
        sys.exit(error.exit_status)
    except KeyboardInterrupt:
        progress.console.print(
            "[red]interrupted[/red]: nothing that was finished is lost; run the command again"
        )
        sys.exit(130)
    sys.exit(status)
