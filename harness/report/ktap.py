# SPDX-License-Identifier: MIT
"""A run as KTAP, by the kernel's Documentation/dev-tools/ktap.rst: an area is a test, a case its subtest.

A bug that is known is ``ok`` with XFAIL, as kselftest prints it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from harness.report.record import Case, Record, consoles_on_one_clock

LINES = 40
"""Lines of all consoles together that a failure shows."""
INDENT = "  "


def ktap(record: Record) -> str:
    """Return the run as KTAP."""
    areas = record.by_area()
    lines = ["KTAP version 1", f"1..{len(areas) + bool(record.errors)}"]
    if record.facts.digest:
        lines.append(f"# kernel {record.summary.kernel}, build {record.facts.digest}, {record.facts.release}")
    for number, (area, cases) in enumerate(areas.items(), 1):
        lines += [INDENT + line for line in _area(record, cases)]
        lines.append(_result(number, area, ok=not any(case.bad for case in cases)))
    if record.errors:
        lines += [f"# {line}" for text in record.errors.values() for line in text.splitlines()]
        lines.append(f"not ok {len(areas) + 1} collection # ERROR {_one_line(', '.join(record.errors))}")
    return "\n".join(lines) + "\n"


def _area(record: Record, cases: Sequence[Case]) -> Iterator[str]:
    yield "KTAP version 1"
    yield f"1..{len(cases)}"
    for number, case in enumerate(cases, 1):
        if case.bad:
            claim = record.claim(case)
            yield from (f"# {line}" for line in _diagnostics(case, claim.text, claim.source))
        file = case.key.partition("::")[0].partition("/")[2].removesuffix(".py")
        yield _result(number, f"{file}.{case.name}", ok=not case.bad, directive=_directive(case))


def _diagnostics(case: Case, claim: str, source: str) -> Iterator[str]:
    yield f"claim: {_one_line(claim)}"
    yield f"source: {_one_line(source)}"
    yield from case.text.splitlines()
    lines = consoles_on_one_clock(case)
    if len(lines) > LINES:
        yield f"[{len(lines) - LINES} lines of the consoles left out]"
    for at, place, text in lines[-LINES:]:
        yield f"{at:10.3f} {case.consoles[place].kernel}: {_one_line(text)}"


def _directive(case: Case) -> str:
    why = _one_line(case.why)
    if case.error:
        return f"ERROR in {case.phase}: {why}"
    if case.outcome == "failed" and "Timeout (>" in case.why:
        return f"TIMEOUT {why}"
    return {
        "passed": "",
        "skipped": f"SKIP {why}",
        "known": f"XFAIL {why}",
        "not_run": "ERROR it was not run",
        "unstable": f"it held when it was tried again: {why}",
        "failed": why,
    }[case.outcome]


def _result(number: int, name: str, *, ok: bool, directive: str = "") -> str:
    line = f"{'ok' if ok else 'not ok'} {number} {_one_line(name).replace('#', '_')}"
    return f"{line} # {directive}".rstrip() if directive else line


def _one_line(text: str) -> str:
    return " ".join(text.split())
