# SPDX-License-Identifier: MIT
"""`mkh doctor`: what is missing on this computer, and the command that mends it."""

from __future__ import annotations

from typing import Annotated

from cyclopts import Parameter

from harness.progress import Progress


def doctor(*, json: Annotated[bool, Parameter(negative="", help="Print one JSON list.")] = False) -> int:
    """Try what mkharness needs on this computer; say what is missing and which command mends it.

    Exit status: 0 when all that is needed is there, 1 when something is missing. What is `optional`
    is absent, too, and makes something slower or one command impossible.

    For example:

        mkh doctor --json | jq -r '.[] | select(.state == "missing") | .command'
    """
    import msgspec

    from harness import doctor as examining

    found = []
    with Progress().step("Doctor") as step:
        for finding in examining.examine():
            step.update(finding.what)
            found.append(finding)
    if json:
        print(msgspec.json.encode(found).decode())
    else:
        for finding in found:
            print(f"{finding.state:<9} {finding.what}: {finding.why}")
            if finding.command:
                print(f"{'':<9} {finding.command}")
    missing = [finding.what for finding in found if finding.state == "missing"]
    if not json:
        print(f"missing: {', '.join(missing)}" if missing else "all that is needed is there")
    return 1 if missing else 0
