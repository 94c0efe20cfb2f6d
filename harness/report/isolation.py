# SPDX-License-Identifier: MIT
"""The isolation report as a table for people, and as text for documents."""

from __future__ import annotations

from collections.abc import Iterator

from rich.markup import escape
from rich.table import Table

from harness.isolation import CONVENTION, HARDWARE, NOTHING, TABLES, UNTRIED, Report

STYLES = {HARDWARE: "green", TABLES: "cyan", CONVENTION: "yellow", NOTHING: "bold red", UNTRIED: "dim"}
NOT_THEIRS = "-"


def directions(report: Report) -> list[str]:
    """Return the columns: every direction that any row has."""
    return list(dict.fromkeys(direction for row in report.rows for direction in row.cells))


def table(report: Report) -> Table:
    """Return the table, a word in each cell."""
    shown = Table(title=f"what keeps a kernel from ... ({escape(report.kernel)})", title_justify="left")
    shown.add_column("")
    for direction in directions(report):
        shown.add_column(escape(direction))
    for row in report.rows:
        words = [row.cells[one].word if one in row.cells else NOT_THEIRS for one in directions(report)]
        styled = [f"[{STYLES[one]}]{one}[/]" if one in STYLES else one for one in words]
        shown.add_row(escape(row.what), *styled)
    return shown


def evidence(report: Report) -> Iterator[str]:
    """Return a line for each cell that says what it follows from; of those not tried, one for each reason.

    Before them, what may cross by agreement.
    """
    yield from (f"agreed: {one}" for one in report.agreed)
    untried: dict[tuple[str, str], list[str]] = {}
    for row in report.rows:
        for direction, cell in row.cells.items():
            told = "; ".join(cell.evidence)
            if cell.word == UNTRIED:
                untried.setdefault((direction, told), []).append(row.what)
            else:
                yield f"{row.what}, {direction}: {cell.word}. {told}"
    for (direction, told), rows in untried.items():
        yield f"{direction}, {UNTRIED}: {', '.join(rows)}. {told}"


def markdown(report: Report) -> str:
    """Return the table and its evidence as Markdown."""
    columns = directions(report)
    lines = [f"| {' | '.join(('', *columns))} |", f"|{'---|' * (1 + len(columns))}"]
    for row in report.rows:
        words = [row.cells[one].word if one in row.cells else NOT_THEIRS for one in columns]
        lines.append(f"| {' | '.join((row.what, *words))} |")
    lines += ["", *(f"- {line}" for line in evidence(report))]
    return "\n".join(lines)
