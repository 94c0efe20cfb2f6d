# SPDX-License-Identifier: MIT
"""A run for KCIDB, the kernel community's database of results: a checkout, a build, its tests.

The schema is that of kcidb-io 5.3, which is asked to validate it where it is installed.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from harness.report.record import Case, Record, clip, consoles_on_one_clock

ORIGIN = "mkharness"
EXCERPT = 16_000
"""Characters of a log that the schema takes, some of them left for what says that it was cut."""
STATUS = {
    "passed": "PASS",
    "failed": "FAIL",
    "unstable": "FAIL",
    "known": "FAIL",
    "skipped": "SKIP",
    "not_run": "MISS",
}
"""``known`` is a failure of the kernel under test all the same; ``misc`` says that it is known."""


def kcidb(record: Record) -> dict[str, Any]:
    """Return the run as one object of KCIDB's schema 5.3. A build that is not known is named ``unknown``."""
    facts, name = record.facts, record.facts.digest or "unknown"
    checkout: dict[str, Any] = {
        "id": f"{ORIGIN}:{name}",
        "origin": ORIGIN,
        "comment": f"{record.summary.kernel}: {facts.source or 'source unknown'}, {facts.patches} patches",
        "valid": True,
        "misc": {"series": facts.series, "source": facts.source},
    }
    build: dict[str, Any] = {
        "id": f"{ORIGIN}:{name}",
        "origin": ORIGIN,
        "checkout_id": f"{ORIGIN}:{name}",
        "architecture": "x86_64",
        "config_name": record.summary.kernel,
        "comment": f"Linux {facts.release}" if facts.release else "built elsewhere",
        "status": "PASS",
        "misc": {"digest": facts.digest, "capabilities": record.summary.capabilities},
    }
    if facts.created:
        checkout["start_time"] = build["start_time"] = _when(facts.created)
        build["duration"] = facts.seconds
    return {
        "version": {"major": 5, "minor": 3},
        "checkouts": [checkout],
        "builds": [build],
        "tests": [_test(record, case) for case in record.cases],
    }


def validate(told: Mapping[str, Any]) -> bool:
    """Have kcidb-io validate it, which raises what it raises; return False where it is not installed."""
    try:
        from kcidb_io.schema import V5_3
    except ImportError:
        return False
    V5_3.validate(dict(told))
    return True


def _test(record: Record, case: Case) -> dict[str, Any]:
    claim = record.claim(case)
    unique = hashlib.sha256(f"{record.started} {case.test}".encode()).hexdigest()[:16]
    told: dict[str, Any] = {
        "id": f"{ORIGIN}:{(record.facts.digest or 'unknown')[:20]}-{unique}",
        "origin": ORIGIN,
        "build_id": f"{ORIGIN}:{record.facts.digest or 'unknown'}",
        "path": path_of(case),
        "comment": claim.text,
        "status": STATUS[case.outcome],
        "duration": case.seconds,
        "environment": {"comment": "QEMU, x86-64", "misc": {"options": list(record.options)}},
        "misc": {
            "outcome": case.outcome,
            "test": case.test,
            "source": claim.source,
            "seen": case.seen,
            "why": case.why,
        },
    }
    if case.error:
        told["status"] = "ERROR"
    if case.started:
        told["start_time"] = _when(case.started)
    excerpt = _excerpt(case)
    if excerpt:
        told["log_excerpt"] = excerpt
    return told


def path_of(case: Case) -> str:
    """Return the test's place in KCIDB's tree: ``mkharness.AREA.FILE.TEST``, parameters included."""
    parts = [ORIGIN, *case.key.partition("::")[0].removesuffix(".py").split("/"), case.name]
    return ".".join(re.sub(r"[^a-zA-Z0-9_-]+", "_", part).strip("_") or "_" for part in parts)


def _excerpt(case: Case) -> str:
    lines = (
        f"{at:.3f} {case.consoles[place].kernel}: {text}" for at, place, text in consoles_on_one_clock(case)
    )
    printed = "\n".join(lines)
    return "\n".join(part for part in (clip(case.text, EXCERPT // 2), printed[-EXCERPT // 3 :]) if part)


def _when(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds")
