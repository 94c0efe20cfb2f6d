# SPDX-License-Identifier: MIT
"""`mkh demo`, `map`, `isolation`, `update`: machines that are started to be looked at."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import msgspec
from cyclopts import Parameter
from rich.markup import escape

from harness.cli_options import CHOSEN, AccelName, BaseText, Chosen, Kernel, Series, TopologyName, build_of
from harness.progress import Progress


def demo(
    *,
    chosen: Chosen = CHOSEN,
    topology: TopologyName = None,
    accel: AccelName = "auto",
) -> int:
    """Boot a host kernel, start a second kernel beside it, and check what the series claims.

    For example:

        mkh demo

        mkh demo --kernel rfc-v1 --series FOLDER --base ~/linux

        mkh demo --bzimage arch/x86/boot/bzImage --vmlinux vmlinux
    """
    from harness import demo as demonstration
    from harness.definition import load_topology
    from harness.vm.accel import choose

    progress = Progress()
    by = choose(accel)
    progress.console.print(f"acceleration: {escape(by.verdict)}")
    built = chosen.build(progress)
    machine = load_topology(topology or built.definition.topology)
    options = chosen.words(built)
    return 0 if demonstration.run(built, machine, by, options, progress) else 1


def memory_map(
    *,
    kernel: Kernel = "reference",
    series: Series = None,
    base: BaseText = None,
    topology: TopologyName = None,
    accel: AccelName = "auto",
) -> int:
    """Start a spawned kernel and draw who claims, maps and writes which memory, seen from outside.

    For example:

        mkh map --kernel rfc-v2 --series FOLDER --topology three
    """
    from rich.console import Console as Display

    from harness.definition import load_topology
    from harness.forks import Forks
    from harness.partition import Partition
    from harness.report.memorymap import draw
    from harness.vm.accel import choose

    progress = Progress()
    built = build_of(kernel, series, base, progress)
    machine = load_topology(topology or built.definition.topology)
    with Forks(built, machine, choose(accel)).lab("spawned", progress) as lab:
        lab.pair()
        partition = Partition(lab)
        findings, parts = partition.findings(), partition.map()
    display = Display(width=None if sys.stdout.isatty() else 160)
    display.print(draw(parts, display.width))
    for finding in findings:
        display.print(f"finding: {finding}", markup=False, highlight=False, soft_wrap=True)
    return 1 if findings else 0


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
    """Try what one kernel can do to another; print what keeps it off: a property, not a verdict.

    For example:

        mkh isolation --kernel rfc-v1 --series FOLDER --markdown
    """
    from harness import isolation as trying
    from harness.definition import load_topology
    from harness.forks import Forks
    from harness.report import history
    from harness.report import isolation as report
    from harness.report.record import ISOLATION
    from harness.vm.accel import choose

    progress = Progress()
    built = build_of(kernel, series, base, progress)
    machine = load_topology(topology or built.definition.topology)
    found = trying.run(Forks(built, machine, choose(accel)), progress)
    history.keep(built.digest, ISOLATION, found)
    if json:
        print(msgspec.json.encode(found).decode())
    elif markdown:
        print(report.markdown(found))
    else:
        progress.console.print(report.table(found))
        for line in report.evidence(found):
            print(line)
    return 0


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
    """Replace the host kernel, then a spawned one, while the others serve; print who stood still how long.

    For example:

        mkh update --pictures FOLDER --no-kho
    """
    from harness import update as updating
    from harness.definition import load_topology
    from harness.forks import Forks
    from harness.replacement import WITHOUT_KHO
    from harness.report import timeline
    from harness.vm.accel import choose

    progress = Progress()
    built = build_of(kernel, series, base, progress)
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
