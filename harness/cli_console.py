# SPDX-License-Identifier: MIT
"""`mkh console`: a machine's consoles in one view."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Parameter

from harness.cli_options import CHOSEN, AccelName, Chosen, TopologyName
from harness.progress import Progress

if TYPE_CHECKING:
    from harness.build import Build
    from harness.definition import Topology


def console(
    *,
    chosen: Chosen = CHOSEN,
    topology: TopologyName = None,
    accel: AccelName = "auto",
    spawned: Annotated[
        int | None, Parameter(help="So many spawned kernels; the first comes with the machine's stage.")
    ] = None,
    attach: Annotated[
        str | None, Parameter(help="Show a machine of another `mkh`: one that waits at a failure, a console.")
    ] = None,
    go_on: Annotated[bool, Parameter(negative="", help="With --attach: let the tests go on.")] = False,
    end: Annotated[bool, Parameter(negative="", help="With --attach: end the tests.")] = False,
) -> int:
    """Fork a machine and show its kernels' consoles, a tile each; what is typed goes to the chosen one.

    Ctrl-] ? tells the keys: switch, zoom, look back, search, QEMU's monitor, memory map, vCPUs, quit.
    The machine ends with the command, however that ends.

    For example:

        mkh console --kernel rfc-v1 --series FOLDER

        mkh console --spawned 3

        mkh console --attach test_a_pair_starts
    """
    from harness.errors import UsageError
    from harness.tui import terminal

    if (go_on or end) and attach is None:
        raise UsageError("--go-on and --end are for --attach NAME", advice="`mkh debug` lists the names")
    if attach is not None:
        return _attached(attach, "end" if end else "go on" if go_on else None)
    terminal.require()
    progress = Progress()
    built = chosen.build(progress)
    spawns = "spawn" in built.definition.expects
    count = (1 if spawns else 0) if spawned is None else spawned
    machine = _topology(topology or built.definition.topology, count, fixed=topology is not None)
    return _own(built, machine, count, accel, progress)


def _topology(name: str, count: int, *, fixed: bool) -> Topology:
    """Return the named topology, or where it has too few spawned kernels the smallest that has enough."""
    from harness import paths
    from harness.definition import load_topology
    from harness.errors import UsageError

    if count < 0:
        raise UsageError(f"--spawned {count} is no number of kernels", advice="0 shows the host alone")
    chosen = load_topology(name)
    if count <= len(chosen.spawned):
        return chosen
    others = [load_topology(file.stem) for file in sorted(paths.TOPOLOGIES.glob("*.toml"))]
    enough = [one for one in others if len(one.spawned) >= count and not fixed]
    if not enough:
        most = max((one for one in others), key=lambda one: len(one.spawned))
        raise UsageError(
            f"the topology {name} has {len(chosen.spawned)} spawned kernels, not {count}"
            if fixed
            else f"no topology has {count} spawned kernels",
            advice=f"{most.name} has {len(most.spawned)}; kernels/topologies has room for more",
        )
    return min(enough, key=lambda one: (len(one.spawned), one.memory_mib))


def _attached(name: str, decision: Literal["go on", "end"] | None) -> int:
    """Show a machine of another process, or only tell it what to do."""
    from harness.tui import terminal
    from harness.tui.remote import RemoteSource, find

    entry = find(name)
    if decision is None:
        terminal.require()
    with RemoteSource(entry) as source:
        if decision is None:
            from harness.tui.view import View

            with terminal.Terminal() as shown:
                outcome = View(source, shown, own=False, waits=source.waits).run()
            if outcome not in {"go on", "end"}:
                print(f"detached from {entry.name}")
                return 0
            decision = "end" if outcome == "end" else "go on"
        print(source.ask(decision))
    return 0


def _own(built: Build, topology: Topology, count: int, accel: AccelName, progress: Progress) -> int:
    """Show a machine of one's own, which ends with the view."""
    from harness.forks import Forks
    from harness.tui import starting, waiting
    from harness.tui.serve import Served
    from harness.tui.source import LabSource
    from harness.tui.terminal import Terminal
    from harness.tui.view import View
    from harness.vm.accel import choose

    names = [one.name for one in topology.spawned[:count]]
    stage: Literal["booted", "spawned"] = "spawned" if names else "booted"
    name = f"{built.definition.name[:40]}-{os.getpid()}"
    with Forks(built, topology, choose(accel)).lab(stage, progress) as lab:
        source = LabSource(lab, built.definition.name, ["host", *names])
        for one in ("host", *(pair.spawned.name for pair in lab.pairs)):
            # What the kernels have printed since stands behind their prompts.
            source.type(one, b"\n")
        with Served(source, name):
            starter = starting.Starter(lab, names)
            again = True
            while again:
                with Terminal() as terminal:
                    view = View(source, terminal)
                    starter.tell(view)
                    outcome = view.run()
                again = outcome == "detach" and waiting.detached(source)
    return 0
