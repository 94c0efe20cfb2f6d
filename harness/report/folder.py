# SPDX-License-Identifier: MIT
"""The folder of a run's reports: ``report.json``, and what is made of it."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import msgspec

from harness.report.junit import junit
from harness.report.kcidb import kcidb, validate
from harness.report.ktap import ktap
from harness.report.page import page
from harness.report.record import Record

JSON, PAGE = "report.json", "report.html"
_MADE: dict[str, Callable[[Record], str]] = {PAGE: page, "junit.xml": junit, "results.ktap": ktap}


def write(folder: Path, record: Record) -> None:
    """Write all reports, each whole or not at all. Where kcidb-io is installed it validates its own."""
    folder.mkdir(parents=True, exist_ok=True)
    _put(folder / JSON, msgspec.json.format(msgspec.json.encode(record), indent=1))
    for name, make in _MADE.items():
        _put(folder / name, make(record).encode())
    told = kcidb(record)
    validate(told)
    _put(folder / "kcidb.json", msgspec.json.format(msgspec.json.encode(told), indent=1))


def _put(file: Path, content: bytes) -> None:
    temporary = file.with_name(f".{file.name}.{os.getpid()}")
    temporary.write_bytes(content)
    temporary.replace(file)
