# SPDX-License-Identifier: MIT
"""The `mkh` command. Every command is thin: it reads options and calls the room that does the work.

The modules named here import no more than their options need; commands import what they use when
they run, so that `mkh --help` and completion are quick.
"""

from __future__ import annotations

import os
import signal
import sys

from cyclopts import App, CycloptsError, Group
from rich.markup import escape

from harness import (
    cli_bench,
    cli_build,
    cli_completion,
    cli_console,
    cli_debug,
    cli_doctor,
    cli_look,
    cli_reproduce,
    cli_selfcheck,
    cli_test,
    interrupt,
)
from harness.errors import HarnessError
from harness.progress import Progress

app = App(
    name="mkh",
    help="""Build, boot and judge Linux trees that carry a multikernel patch series.

    Exit status: 0 when all is well, 1 when something failed, 2 when the question makes no sense,
    130 when interrupted. Progress goes to standard error, answers to standard output; `--json` makes
    them one JSON document. No colour goes into a pipe, or anywhere when NO_COLOR is set.
    """,
    version_flags=[],
)

JUDGE = Group.create_ordered("Judge a kernel")
BUILD = Group.create_ordered("Build one")
KNOWN = Group.create_ordered("Earlier runs")
HARNESS = Group.create_ordered("mkharness itself")

app.command(cli_look.demo, group=JUDGE)
app.command(cli_test.judge, name="test", group=JUDGE)
app.command(cli_console.console, group=JUDGE)
app.command(cli_look.isolation, group=JUDGE)
app.command(cli_look.update, group=JUDGE)
app.command(cli_look.memory_map, name="map", group=JUDGE)
app.command(cli_build.build, group=BUILD)
app.command(cli_build.check, group=BUILD)
app.command(
    "harness.cli_series:app", name="series", group=BUILD, help="Look at a patch series, and try it on a base."
)
app.command(
    "harness.cli_store:app",
    name="store",
    group=BUILD,
    help="Show what was built and kept, and remove what is old.",
)
app.command(cli_debug.debug, group=KNOWN)
app.command(cli_test.runs, group=KNOWN)
app.command(cli_test.coverage, group=KNOWN)
app.command(cli_reproduce.reproduce, group=KNOWN)
app.command(cli_doctor.doctor, group=HARNESS)
app.command(cli_completion.completion, group=HARNESS)
app.command(cli_selfcheck.selfcheck, group=HARNESS)
app.command(cli_bench.bench, group=HARNESS)


def _status(status: int) -> int:
    """Return the exit status after an error: `git bisect run` would take 1 and 2 for a bad revision."""
    if "--bisect" not in sys.argv:
        return status
    from harness import testing

    return testing.STOP if status == 2 else testing.SKIP


def main() -> None:
    """Run `mkh`; exit status 0, 1 when something fails, 2 when the question makes no sense."""
    interrupt.install()
    progress = Progress()
    try:
        status = app(exit_on_error=False)
        sys.stdout.flush()
    except BrokenPipeError:
        # Whoever read it has seen enough, as `head` does; nothing is left to be written at the end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(128 + signal.SIGPIPE)
    except CycloptsError:
        # It was told.
        sys.exit(_status(2))
    except HarnessError as error:
        progress.console.print("[red]error:[/red]", escape(str(error)), soft_wrap=True)
        sys.exit(_status(error.exit_status))
    except KeyboardInterrupt:
        progress.console.print(
            "[red]interrupted[/red]: nothing that was finished is lost; run the command again"
        )
        sys.exit(interrupt.STATUS)
    sys.exit(status)
