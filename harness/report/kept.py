# SPDX-License-Identifier: MIT
"""What was kept of a case's machine when it failed, and what a run's record knows where nothing is."""

from __future__ import annotations

from harness import failure
from harness.failure import Failure, Kernel
from harness.report.record import Case, Record
from harness.report.repeat import repeat

LATE = 900.0
"""Seconds after a case's end by which its failure was kept at the latest."""


def find(record: Record, case: Case) -> Failure | None:
    """Return the kept failure of a case, None where it is not kept, or not any more."""
    ended = case.started + case.seconds
    for one in reversed(failure.all()):
        if (one.test, one.digest) == (case.test, record.facts.digest) and abs(one.ended - ended) < LATE:
            return one
    return None


def failure_of(record: Record, case: Case) -> Failure:
    """Return a case as a failure: what was kept of it, else what the record knows."""
    found = find(record, case)
    if found is not None:
        return found
    claim, facts = record.claim(case), record.facts
    lines = [f"{one.kernel}: {line.text}" for one in case.consoles for line in one.lines]
    return Failure(
        test=case.test,
        ended=case.started + case.seconds,
        why=case.why,
        phase=case.phase,
        claim=claim.text,
        source=claim.source,
        area=claim.area,
        kernel=record.summary.kernel,
        digest=facts.digest,
        release=facts.release,
        series=facts.series,
        source_tree=facts.source,
        kernels=tuple(Kernel(one.kernel) for one in case.consoles),
        explanation="\n".join([case.text, *lines]),
        commands={"this test on this build": repeat(record, case)},
    )
