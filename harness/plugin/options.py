# SPDX-License-Identifier: MIT
"""The options that choose the kernel and the machine, and what becomes of a run."""

from __future__ import annotations

from pathlib import Path

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the options that choose the kernel and the machine."""
    group = parser.getgroup("mkharness")
    group.addoption(
        "--kernel",
        default="reference",
        help="kernel definition in kernels/, or a .toml file; +FRAGMENT adds configuration",
    )
    group.addoption(
        "--series", help="patches in place of the definition's: folder, mbox, REPO:OLDER..NEWER or message-id"
    )
    group.addoption("--base", help="Linux source folder or tarball, in place of the definition's")
    group.addoption("--bzimage", type=Path, help="image built elsewhere, in place of a definition")
    group.addoption("--vmlinux", type=Path, help="that image's vmlinux, for symbols")
    group.addoption("--dialect", help="how that image is driven, where it does not tell by itself")
    group.addoption("--topology", help="topology in kernels/topologies/, in place of the definition's")
    group.addoption("--accel", choices=["auto", "kvm", "tcg"], default="auto", help="how QEMU runs the guest")
    group.addoption(
        "--no-oracles",
        dest="oracles",
        action="store_false",
        default=True,
        help="do not look after each test from outside whether the kernels kept to their own memory and CPUs",
    )
    group.addoption(
        "--coverage",
        metavar="FOLDER",
        help="count into FOLDER which lines of the series are executed; for --kernel NAME+gcov",
    )
    group.addoption(
        "--trust",
        action="store_true",
        default=False,
        help="do not probe what the kernel can do: take what its definition expects for granted",
    )
    group.addoption(
        "--pause-on-fail",
        action="store_true",
        default=False,
        help="at a failure keep its machine, say how to attach, and wait for a person",
    )
    group.addoption("--claims", metavar="FILE", help="write the counts of claims to FILE, as JSON")
    group.addoption(
        "--report", metavar="FOLDER", help="write a page, JUnit, KTAP, KCIDB and JSON of the run into FOLDER"
    )
    group.addoption(
        "--against", metavar="FILE", help="compare with an earlier report.json in the report; for --report"
    )
    group.addoption(
        "--build", metavar="DIGEST", help="run on this very build; refuse another, whatever made it so"
    )
