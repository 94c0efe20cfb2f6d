# SPDX-License-Identifier: MIT
"""`mkh selfcheck`: is each seeded fault noticed by the suite, and by which claim first?

    for verdict in selfcheck.run(load_definition("reference"), seeded.find(), progress): ...

A fault is caught when a claim fails on the kernel that has it, and fails again when it is tried by itself.
"""

from __future__ import annotations

import contextlib
import re
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

import msgspec

from harness import paths, process
from harness.build import build
from harness.definition import Definition
from harness.errors import HarnessError, UsageError
from harness.progress import Progress, Step
from harness.report import history, suite
from harness.seeded import Fault, on_top
from harness.testing import CONFORMANCE

KIND = "seeded"
TRIES = 3
"""How often a claim that failed is tried by itself until it fails again."""
LIMIT = 1500.0
"""Seconds that an area may take."""
_ENDED = re.compile(rb" (PASSED|FAILED|ERROR|SKIPPED|XFAIL)\b")

AREAS = tuple(sorted({file.parent.name for file in CONFORMANCE.glob("*/test_*.py")}))


class Verdict(msgspec.Struct, frozen=True, kw_only=True):
    """What became of one fault on one build.

    ``caught_by`` is the claim that failed first, empty when none did; ``message`` the first line of why.
    ``points`` says whether the failure's text has one of the fault's clues, None when it has no clues.
    ``tried`` are the areas that were run, ``seconds`` how long that took, ``at`` when it ended (seconds since
    1970). ``error`` says why nothing could be run.
    """

    fault: str
    build: str = ""
    at: float = 0
    expected: tuple[str, ...] = ()
    caught_by: str = ""
    message: str = ""
    points: bool | None = None
    unstable: tuple[str, ...] = ()
    tried: tuple[str, ...] = ()
    seconds: float = 0
    build_seconds: float = 0
    error: str = ""

    @property
    def area(self) -> str:
        """The area of the claim that caught it."""
        return self.caught_by.partition("/")[0]

    @property
    def in_right_area(self) -> bool:
        """Whether the area that must notice did; nothing is right where no area is named."""
        return bool(self.caught_by) and self.area in self.expected[:1]


@dataclass(frozen=True)
class Failure:
    """A test case that failed: its node id below ``tests/conformance/``, and the text of the failure."""

    case: str
    text: str

    @property
    def message(self) -> str:
        """The line that says why."""
        lines = [line for line in self.text.splitlines() if line.strip()]
        said = [line[1:].strip() for line in lines if line.startswith("E ")]
        return (said or lines or [""])[0]


def run(
    definition: Definition,
    faults: Sequence[Fault],
    progress: Progress,
    *,
    whole: bool = False,
    anew: bool = False,
) -> Iterator[Verdict]:
    """Judge faults one by one; one that was caught before on the same build, by any suite, is not run again.

    What keeps one from being judged (it does not apply, does not compile) is told in its verdict.
    ``whole`` tries every area, those that the fault names first; ``anew`` takes no earlier verdict.
    """
    for number, fault in enumerate(faults, 1):
        with progress.step(f"{number} of {len(faults)}: {fault.name}") as step:
            try:
                verdict = _judge(definition, fault, progress, step, whole=whole, anew=anew)
            except HarnessError as error:
                progress.console.print(str(error), markup=False)
                verdict = Verdict(fault=fault.name, expected=fault.areas, error=error.what)
            step.done(verdict.caught_by or verdict.error or "MISSED")
        yield verdict


def try_claim(definition: Definition, fault: Fault, claim: str, progress: Progress) -> list[Failure]:
    """Try one claim (``AREA/FILE.py::TEST``) on the kernel with a fault; return how it fails, if it does."""
    series = _series(definition, fault)
    build(definition, progress, series=series)
    with progress.step(f"{claim} with {fault.name}") as step:
        return _run(definition.name, series, claim, series / "again.log", step)


def _series(definition: Definition, fault: Fault) -> Path:
    """Return a folder with the definition's series, and the fault's patch behind it."""
    if definition.series is None:
        raise UsageError(
            f"{definition.name} has no series to put faults on", advice="name a definition that has one"
        )
    return on_top(fault, Path(definition.series), paths.cache() / "seeded" / fault.name)


def _judge(
    definition: Definition, fault: Fault, progress: Progress, step: Step, *, whole: bool, anew: bool
) -> Verdict:
    series = _series(definition, fault)
    began = time.monotonic()
    built = build(definition, progress, series=series)
    build_seconds = time.monotonic() - began
    kept = [one for one in history.kept(built.digest, KIND, Verdict) if one.caught_by]
    if kept and not anew:
        return kept[-1]
    began = time.monotonic()
    unstable: list[str] = []
    tried: list[str] = []
    caught: Failure | None = None
    named = [area for area in fault.areas if area in AREAS]
    others = [area for area in AREAS if area not in named]
    for area in (*named, *(others if whole or not named else [])):
        tried.append(area)
        caught = _catch(definition.name, series, area, step, unstable)
        if caught:
            break
    verdict = Verdict(
        fault=fault.name,
        build=built.digest,
        at=round(time.time()),
        expected=fault.areas,
        caught_by=suite.key_of(f"{suite.FOLDER}{caught.case}") if caught else "",
        message=caught.message if caught else "",
        points=fault.points_at(caught.text) if caught else None,
        unstable=tuple(unstable),
        tried=tuple(tried),
        seconds=round(time.monotonic() - began, 1),
        build_seconds=round(build_seconds, 1),
    )
    history.keep(built.digest, KIND, verdict)
    return verdict


def _catch(kernel: str, series: Path, area: str, step: Step, unstable: list[str]) -> Failure | None:
    """Return the first failure of an area that fails again by itself; add to ``unstable`` what does not.

    What fails once and then holds ends a run of the area, too, which then goes on without it, TRIES times.
    """
    for _ in range(TRIES):
        log = series / f"{area}.log"
        failed = _run(kernel, series, area, log, step, workers=3, without=unstable)
        for failure in failed:
            if any(_run(kernel, series, failure.case, series / "again.log", step) for _ in range(TRIES)):
                return failure
            unstable.append(failure.case)
        if not failed:
            break
    return None


def _run(
    kernel: str,
    series: Path,
    what: str,
    log: Path,
    step: Step,
    *,
    workers: int = 0,
    without: Sequence[str] = (),
) -> list[Failure]:
    """Run an area or a case of the suite until one fails; return what failed, the first one first.

    The cases ``without`` are left out.

    Raises HarnessError when pytest itself fails, or does not end.
    """
    report = log.with_suffix(".xml")
    report.unlink(missing_ok=True)
    command = [sys.executable, "-m", "pytest", "--rootdir", str(paths.CHECKOUT), "-x", "--trust", "-v"]
    # What is handed out to a worker is run after another's failure, too: hand out little at a time.
    command += ["-n", str(workers), "--dist", "load", "--maxschedchunk", "1"] if workers else []
    command += ["--kernel", kernel, "--series", str(series), "--junitxml", str(report)]
    command += [f"--deselect={suite.FOLDER}{case}" for case in without]
    command.append(str(CONFORMANCE / what))
    began = time.monotonic()
    with log.open("wb") as out:
        options = {"stdin": subprocess.DEVNULL, "stdout": out, "stderr": subprocess.STDOUT}
        with process.running(command, cwd=paths.CHECKOUT, **options) as child:
            while child.poll() is None and time.monotonic() - began < LIMIT:
                step.update(f"{what}, {len(_ENDED.findall(log.read_bytes()))} tests")
                with contextlib.suppress(subprocess.TimeoutExpired):
                    child.wait(5)
            status = child.poll()
    found = failures(report) if report.exists() else []
    # xdist calls it an interruption (2) when it stops at a failure.
    if status != 0 and not found:
        raise HarnessError(
            f"the suite did not end as it should: exit status {status}",
            details="\n".join(log.read_text(errors="replace").splitlines()[-15:]),
            advice=f"read {log}",
        )
    return found


def failures(report: Path) -> list[Failure]:
    """Return what failed by a JUnit report of pytest, in the order in which it ended."""
    found = []
    for case in ElementTree.parse(report).iter("testcase"):
        bad = [part for part in case if part.tag in {"failure", "error"}]
        module = case.get("classname", "").partition("tests.conformance.")[2]
        if bad and module:
            text = "\n".join(f"{part.get('message', '')}\n{part.text or ''}" for part in bad)
            found.append(Failure(f"{module.replace('.', '/')}.py::{case.get('name')}", text))
    return found
