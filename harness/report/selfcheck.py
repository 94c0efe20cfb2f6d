# SPDX-License-Identifier: MIT
"""What became of the seeded faults, as a table and as one object."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.markup import escape
from rich.table import Table

from harness.report.columns import printable
from harness.selfcheck import Verdict


def as_values(verdicts: Sequence[Verdict]) -> dict[str, Any]:
    """Return the counts, and for each fault by which claim it was caught, and in how many seconds."""
    return {
        "faults": len(verdicts),
        "caught": sum(bool(verdict.caught_by) for verdict in verdicts),
        "right_area": sum(verdict.in_right_area for verdict in verdicts),
        "points_at_cause": sum(bool(verdict.points) for verdict in verdicts),
        "each": {
            verdict.fault: {
                "caught_by": verdict.caught_by or None,
                "area": verdict.area or None,
                "expected": verdict.expected,
                "seconds": verdict.seconds,
                "build_seconds": verdict.build_seconds,
                "message": verdict.message,
                "points_at_cause": verdict.points,
                "unstable": verdict.unstable,
                "tried": verdict.tried,
                "error": verdict.error,
            }
            for verdict in verdicts
        },
    }


def table(verdicts: Sequence[Verdict]) -> Table:
    """Return one row for each fault, missed ones first."""
    shown = Table()
    for column in ("fault", "must notice", "caught by", "s", "cause", "the failure says"):
        shown.add_column(column, justify="right" if column == "s" else "left", overflow="fold")
    for one in sorted(verdicts, key=lambda one: (bool(one.caught_by), one.fault)):
        caught = one.caught_by or one.error or f"MISSED by {', '.join(one.tried)}"
        style = "" if one.in_right_area else "yellow" if one.caught_by else "bold red"
        cause = {None: "", True: "named", False: "not named"}[one.points]
        cells = (
            one.fault,
            ", ".join(one.expected),
            caught,
            f"{one.seconds:.0f}",
            cause,
            printable(one.message),
        )
        shown.add_row(*map(escape, cells), style=style)
    return shown


def summary(verdicts: Sequence[Verdict]) -> str:
    """Return the counts in one line."""
    told = as_values(verdicts)
    return (
        f"{told['caught']} of {told['faults']} faults caught, {told['right_area']} of them by the area that"
        f" must notice, {told['points_at_cause']} with a text that points at the cause"
    )
