# SPDX-License-Identifier: MIT
"""A run as JUnit XML, for CI services: a suite for each area, a test case for each case."""

from __future__ import annotations

from datetime import UTC, datetime
from xml.etree import ElementTree as Xml

from harness.report.record import Case, Record, consoles_on_one_clock
from harness.report.repeat import repeat


def junit(record: Record) -> str:
    """Return the run as JUnit XML. What failed before its claim was looked at is an error."""
    root = Xml.Element("testsuites", name="mkharness", time=f"{record.seconds:.3f}")
    for area, cases in record.by_area().items():
        suite = Xml.SubElement(root, "testsuite", _suite(record, area, cases))
        for case in cases:
            _case(suite, record, case)
    if record.errors:
        suite = Xml.SubElement(root, "testsuite", _suite(record, "collection", []))
        suite.set("tests", str(len(record.errors)))
        suite.set("errors", str(len(record.errors)))
        for file, text in record.errors.items():
            case_ = Xml.SubElement(suite, "testcase", classname="collection", name=file, time="0")
            Xml.SubElement(case_, "error", message="it cannot be collected").text = text
    Xml.indent(root)
    return Xml.tostring(root, encoding="unicode", xml_declaration=True) + "\n"


def _suite(record: Record, area: str, cases: list[Case]) -> dict[str, str]:
    kinds = [_kind(case) for case in cases]
    return {
        "name": area,
        "tests": str(len(cases)),
        "failures": str(kinds.count("failure")),
        "errors": str(kinds.count("error")),
        "skipped": str(kinds.count("skipped")),
        "time": f"{sum(case.seconds for case in cases):.3f}",
        "timestamp": datetime.fromtimestamp(record.started, UTC).strftime("%Y-%m-%dT%H:%M:%S"),
    }


def _kind(case: Case) -> str:
    if case.outcome in {"skipped", "known"}:
        return "skipped"
    if case.bad:
        return "error" if case.error or case.outcome == "not_run" else "failure"
    return ""


def _case(suite: Xml.Element, record: Record, case: Case) -> None:
    claim = record.claim(case)
    file = case.key.partition("::")[0].removesuffix(".py").replace("/", ".")
    element = Xml.SubElement(suite, "testcase", classname=file, name=case.name, time=f"{case.seconds:.3f}")
    kind = _kind(case)
    if kind:
        message = "it was not run" if case.outcome == "not_run" else case.why
        what = Xml.SubElement(element, kind, message=message)
        if case.outcome in {"known", "unstable"}:
            what.set("type", case.outcome)
        if kind != "skipped":
            what.text = case.text
    told = [f"claim: {claim.text}", f"source: {claim.source}"]
    told += [f"seen: {case.seen}"] if case.seen else []
    told += [f"repeat: {repeat(record, case)}"] if case.bad else []
    told += [f"kept: {case.kept}"] if case.kept else []
    Xml.SubElement(element, "system-out").text = "\n".join(told)
    lines = consoles_on_one_clock(case)
    if lines:
        names = [console.kernel for console in case.consoles]
        printed = [
            f"{one.kernel}: {one.before:,} bytes before these lines" for one in case.consoles if one.before
        ]
        printed += [f"{at:10.3f} {names[place]}: {text}" for at, place, text in lines]
        Xml.SubElement(element, "system-err").text = "\n".join(printed)
