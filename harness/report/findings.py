# SPDX-License-Identifier: MIT
"""What a run found beside verdicts: strays seen from outside, complaints of kernels, known bugs."""

from __future__ import annotations

from dataclasses import dataclass

from harness.report.record import Record

OUTSIDE = "seen from outside: "


@dataclass(frozen=True)
class Found:
    """One finding: its kind, what it is, and the keys of the claims whose tests showed it."""

    kind: str
    what: str
    keys: tuple[str, ...]


def findings(record: Record) -> list[Found]:
    """Return what was found, each once."""
    found: dict[tuple[str, str], dict[str, None]] = {}

    def add(kind: str, what: str, key: str) -> None:
        found.setdefault((kind, what), {})[key] = None

    for case in record.cases:
        if case.outcome == "known":
            add("known bug", case.why, case.key)
        if not case.bad:
            continue
        for part in case.why.split("; "):
            if OUTSIDE in part:
                add("seen from outside", part.partition(OUTSIDE)[2], case.key)
        for console in case.consoles:
            for splat in console.splats:
                # What was printed before the test began is not its own.
                if splat.at >= 0:
                    add("kernel's complaint", f"{console.kernel}: {splat.text}", case.key)
    order = ("seen from outside", "kernel's complaint", "known bug")
    rows = [Found(kind, what, tuple(keys)) for (kind, what), keys in found.items()]
    return sorted(rows, key=lambda one: (order.index(one.kind), one.what))
