# SPDX-License-Identifier: MIT
"""The table of claims: what was claimed, whether it held, what was seen, who claims it."""

from __future__ import annotations

from collections.abc import Sequence

from rich.table import Table
from rich.text import Text

from harness.model import Verdict
from harness.report.columns import printable


def claims_table(verdicts: Sequence[Verdict]) -> Table:
    """Return one row per claim, failures first."""
    table = Table(title=None, expand=True, show_lines=False)
    table.add_column("verdict")
    table.add_column("claim", ratio=3)
    table.add_column("seen", ratio=4)
    table.add_column("source", ratio=2, style="dim")
    for verdict in sorted(verdicts, key=lambda verdict: verdict.passed):
        mark = Text("pass", style="green") if verdict.passed else Text("FAIL", style="bold red")
        table.add_row(mark, Text(verdict.claim), Text(printable(verdict.seen)), Text(verdict.source))
    return table
