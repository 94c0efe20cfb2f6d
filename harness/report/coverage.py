# SPDX-License-Identifier: MIT
"""Coverage as a table: by file, and which lines no test executed."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import msgspec
from rich.table import Table

from harness.coverage import Coverage, FileCoverage, source
from harness.report.columns import printable


def table(coverage: Coverage) -> Table:
    """Return one row per file that has code of the series, and one for all of them."""
    found = Table(title="lines of the series", title_justify="left")
    for name in ("file", "lines", "executed", "%", "not executed"):
        found.add_column(
            name, justify="left" if name in {"file", "not executed"} else "right", overflow="fold"
        )
    for one in (*coverage.files, coverage.whole):
        if one.lines:
            found.add_row(one.file, str(one.lines), str(one.executed), f"{one.percent:.1f}", _ranges(one))
    return found


def json(coverage: Coverage) -> str:
    """Return the same for machines: the fields of Coverage, and percentages."""
    whole = coverage.whole
    files = [msgspec.structs.asdict(one) | {"percent": round(one.percent, 1)} for one in coverage.files]
    told = msgspec.structs.asdict(coverage) | {
        "lines": whole.lines,
        "executed": whole.executed,
        "percent": round(whole.percent, 1),
        "files": files,
    }
    return msgspec.json.encode(told).decode()


def lines(coverage: Coverage, folder: Path) -> Iterator[str]:
    """Yield the text of the lines that were not executed, under their file's name."""
    for one in coverage.files:
        if one.unexecuted:
            yield f"\n{one.file}"
        text = source(folder, one.file) if one.unexecuted else []
        for first, last in one.unexecuted:
            yield from (f"{number:5} {printable(text[number - 1])}" for number in range(first, last + 1))
            yield ""


def _ranges(one: FileCoverage) -> str:
    return ", ".join(str(first) if first == last else f"{first}-{last}" for first, last in one.unexecuted)


def notes(coverage: Coverage) -> list[str]:
    """Say what the table is from, and which files it cannot tell of."""
    gone = f", {coverage.gone} machines were gone before they could be read" if coverage.gone else ""
    said = [
        f"coverage of {coverage.kernel} {coverage.build[:12]}: {coverage.kernels} kernels"
        f" in {coverage.machines} machines{gone}"
    ]
    without = [one.file for one in coverage.files if not one.counted and one.file.endswith(".c")]
    return [*said, f"without counters: {', '.join(without)}"] if without else said
