# SPDX-License-Identifier: MIT
"""`mkh bench`: what the harness costs."""

from __future__ import annotations

from typing import Annotated

import msgspec
from cyclopts import Parameter

from harness.cli_options import (
    AccelName,
    BaseText,
    Chosen,
    Kernel,
    Series,
    TopologyName,
    build_of,
)
from harness.progress import Progress


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
    """Measure what the harness costs, and what a message does, as ratios within this run.

    For example:

        mkh bench --rounds 20

        mkh bench --messages --json
    """
    from harness import bench as measuring
    from harness import bench_messages, bench_oracles
    from harness.definition import load_topology
    from harness.forks import Forks
    from harness.report import history
    from harness.report.record import MESSAGES
    from harness.vm.accel import choose

    progress = Progress()
    sent = None
    if build:
        from harness import bench_build
        from harness.definition import load_definition

        figures = bench_build.run(load_definition(kernel), progress, rounds)
    else:
        built = build_of(kernel, series, base, progress)
        machine = load_topology(topology or built.definition.topology)
        forks = Forks(built, machine, choose(accel))
        chosen = Chosen(kernel=kernel, series=series, base=base).words(built)
        figures = []
        if not messages:
            figures += measuring.run(forks, progress, rounds)
            figures += bench_oracles.run(forks, chosen, progress, rounds)
        sent = bench_messages.run(forks, progress, rounds)
        if sent is not None:
            history.keep(built.digest, MESSAGES, sent)
    if json:
        told = {figure.key: figure.value for figure in figures} | ({"messages": sent} if sent else {})
        print(msgspec.json.encode(told).decode())
    else:
        if figures:
            progress.console.print(measuring.table(figures))
        progress.console.print(bench_messages.shown(sent) if sent else "messages: not measured")
    return 0 if all(figure.good for figure in figures) else 1
