# SPDX-License-Identifier: MIT
"""One run of the suite, whole: what every report is made of.

It is written as ``report.json``; page, JUnit, KTAP and KCIDB are functions of it alone. Whatever a
guest printed, or a test said, goes through ``visible`` on its way in, and has a limit.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path

import msgspec

from harness.bench_messages import Messages
from harness.errors import UsageError
from harness.isolation import Report as Isolation
from harness.report.gaps import Record as Gap
from harness.report.suite import Claim, Summary, key_of

LINES, WIDTH = 120, 300
"""Lines of a console that a failure keeps, and characters of a line."""
TEXT = 20_000
"""Characters of a failure's text."""
SEEN = 1_000
"""Characters of what a test saw."""
CONSOLES = 8_000_000
"""Characters that the consoles of all failures have together while the run goes on."""
FAILURE, FAILURES, LEAST = 64 << 10, 4_000_000, 2_000
"""Bytes of text and consoles of a failure, of all of them together, and what one has at any rate."""
MARKUP = 40
"""Bytes that a console's line takes besides its text."""

ISOLATION, MESSAGES = "isolation", "messages"
"""What harness.report.history keeps of a build, by kind."""

_UNSEEN = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff\ufffe\uffff]"
)


def visible(text: str) -> str:
    r"""Return ``text`` with each control character as text that shows it: ``^[``, or ``\u202e``."""
    return _UNSEEN.sub(_sign, text.replace("\r\n", "\n"))


def _sign(match: re.Match[str]) -> str:
    code = ord(match[0])
    return f"^{chr(code ^ 0x40)}" if code < 0x80 else f"\\u{code:04x}"


def clip(text: str, limit: int) -> str:
    """Return ``text``, of which the middle is left out, and that said, where it is longer than ``limit``."""
    if len(text) <= limit:
        return text
    end = limit // 3
    return f"{text[: limit - end]}\n[... {len(text) - limit:,} characters left out ...]\n{text[-end:]}"


def taken(text: str) -> int:
    """Return the bytes that a text takes once it is escaped."""
    return len(escape(text).encode())


def fitted(text: str, room: int) -> str:
    """Return ``text``, clipped so that it takes ``room`` bytes, roughly."""
    size = taken(text)
    return clip(text, room * len(text) // size) if size > room else text


class Line(msgspec.Struct, frozen=True, array_like=True):
    """A console's line, and when it began: in seconds since 1970, in a ``Case`` since that began."""

    at: float
    text: str


class Console(msgspec.Struct, frozen=True):
    """The last lines of a kernel's console; ``before`` is how many bytes it had printed before them.

    ``splats`` are the titles of what it complained of there, each with the time of its first line.
    """

    kernel: str
    lines: tuple[Line, ...]
    before: int = 0
    splats: tuple[Line, ...] = ()


class Stretch(msgspec.Struct, frozen=True, array_like=True):
    """A stretch of RAM with one claim on it, as harness.partition tells: addresses and sizes in bytes.

    ``mapped`` are bytes by kernel, ``written`` pages since the fork.
    """

    start: int
    size: int
    claim: str
    why: str
    written: int
    mapped: dict[str, int]


class Case(msgspec.Struct, frozen=True):
    """What became of a test case; ``test`` is pytest's node id, ``key`` names its claim.

    ``outcome`` is one of suite.OUTCOMES, or ``unstable``. ``started`` is in seconds since 1970, ``seconds``
    are those of set-up, test and tear-down; ``phase`` names the one that failed, ``why`` says why in a
    line, for a skip and a known bug too, and ``text`` is the whole failure. ``map`` is its machine's memory,
    ``kept`` the folder with all that is left of it.
    """

    test: str
    key: str
    outcome: str
    started: float = 0.0
    seconds: float = 0.0
    phase: str = ""
    seen: str = ""
    why: str = ""
    text: str = ""
    consoles: tuple[Console, ...] = ()
    map: tuple[Stretch, ...] = ()
    kept: str = ""

    @property
    def bad(self) -> bool:
        """Whether it is no success."""
        return self.outcome in {"failed", "unstable", "not_run"}

    @property
    def error(self) -> bool:
        """Whether it failed before its claim was looked at: no machine came up, a worker died."""
        return self.outcome == "failed" and self.phase in {"setup", "worker"}

    @property
    def name(self) -> str:
        """Its test's name within its file, with parameters."""
        return self.test.rpartition("::")[2] if "[" not in self.test else _with_parameters(self.test)


def _with_parameters(test: str) -> str:
    path, _, parameters = test.partition("[")
    return f"{path.rpartition('::')[2]}[{parameters}"


class Facts(msgspec.Struct, frozen=True):
    """The build under test: digest, release, the source that it is made of, the series' digest, and when."""

    digest: str = ""
    release: str = ""
    spawned_release: str = ""
    source: str = ""
    series: str = ""
    patches: int = 0
    created: float = 0.0
    seconds: float = 0.0


class Capability(msgspec.Struct, frozen=True):
    """Whether the kernel can do something, and what was seen when that was tried."""

    present: bool
    evidence: str


class Earlier(msgspec.Struct, frozen=True):
    """An earlier run: what became of its claims, and each claim's seconds where it tells them."""

    kernel: str
    build: str
    outcomes: dict[str, str]
    seconds: dict[str, float] = {}


class Record(msgspec.Struct, frozen=True, tag_field="format", tag="mkharness-report-1"):
    """A run: ``started`` in seconds since 1970, ``load`` how many processes wanted a core at its end.

    ``options`` are those that choose this kernel, this build and this machine; ``errors`` are test files that
    could not be collected; ``objections`` say why a run without a failed test is no success. ``map`` is the
    memory of a machine with two kernels; ``isolation`` and ``messages`` are what is kept of the build
    """

    started: float
    seconds: float
    load: float
    summary: Summary
    claims: tuple[Claim, ...]
    cases: tuple[Case, ...]
    options: tuple[str, ...] = ()
    facts: Facts = Facts()
    capabilities: dict[str, Capability] = {}
    errors: dict[str, str] = {}
    objections: tuple[str, ...] = ()
    gaps: tuple[Gap, ...] = ()
    before: Earlier | None = None
    map: tuple[Stretch, ...] = ()
    isolation: Isolation | None = None
    messages: Messages | None = None

    @property
    def good(self) -> bool:
        """Whether it is a success."""
        return not (self.errors or self.objections or any(case.bad for case in self.cases))

    def claim(self, case: Case) -> Claim:
        """Return the claim that a case belongs to."""
        return next((one for one in self.claims if one.key == case.key), Claim(case.key, case.key, ""))

    def by_area(self) -> dict[str, list[Case]]:
        """Return the cases of each area, by name, in their files' order."""
        areas: dict[str, list[Case]] = {}
        for case in sorted(self.cases, key=lambda case: case.key.partition("/")[0]):
            areas.setdefault(case.key.partition("/")[0], []).append(case)
        return areas


def earlier(run: Record | Summary) -> Earlier:
    """Return what is remembered of a run when a later one is compared with it."""
    if isinstance(run, Summary):
        return Earlier(run.kernel, run.build, run.outcomes)
    seconds: Counter[str] = Counter()
    for case in run.cases:
        seconds[case.key] += case.seconds  # type: ignore[assignment]
    return Earlier(run.summary.kernel, run.summary.build, run.summary.outcomes, dict(seconds))


def read(file: Path) -> Record | Summary:
    """Read ``report.json``, or what `mkh test --json` printed. Raises UsageError when it is neither."""
    try:
        content = file.read_bytes()
        try:
            return msgspec.json.decode(content, type=Record)
        except msgspec.ValidationError:
            return msgspec.json.decode(content, type=Summary)
    except (OSError, msgspec.MsgspecError) as error:
        raise UsageError(
            f"{file} is no run of the suite: {error}",
            advice="give a report.json, or what `mkh test --json` printed",
        ) from None


def unstable(record: Record, summary: Summary) -> Record:
    """Return the record of a run whose failures were tried again, which ``summary`` counts."""
    again = {key for key, outcome in summary.outcomes.items() if outcome == "unstable"}
    cases = tuple(
        msgspec.structs.replace(case, outcome="unstable")
        if case.outcome == "failed" and case.key in again
        else case
        for case in record.cases
    )
    return msgspec.structs.replace(record, summary=summary, cases=cases)


def case_of(test: str, outcome: str, **known: object) -> Case:
    """Return a case of the claim that its node id names."""
    return Case(test, key_of(test), outcome, **known)  # type: ignore[arg-type]


def consoles_on_one_clock(case: Case) -> list[tuple[float, int, str]]:
    """Return the lines of all of a case's kernels in the order in which they came: time, place, text."""
    lines = [
        (line.at, place, line.text) for place, console in enumerate(case.consoles) for line in console.lines
    ]
    return sorted(lines, key=lambda line: line[0])


def within_limits(cases: Sequence[Case]) -> tuple[Case, ...]:
    """Return cases whose texts and consoles keep to the limits of a report; what is cut is told in them.

    Of a text the middle goes, of the consoles the beginning: a console tells what it printed before.
    """
    count = max(sum(1 for case in cases if case.text or case.consoles), 1)
    room = min(FAILURE, max(FAILURES // count, LEAST))
    return tuple(_within(case, room) for case in cases)


def _within(case: Case, room: int) -> Case:
    text = fitted(case.text, room // 3)
    room -= taken(text)
    left = dict.fromkeys(range(len(case.consoles)), 0)
    for _, place, line in reversed(consoles_on_one_clock(case)):
        room -= taken(line) + MARKUP
        if room < 0:
            break
        left[place] += 1
    shown = tuple(_last(console, left[place]) for place, console in enumerate(case.consoles))
    return msgspec.structs.replace(case, text=text, consoles=shown)


def _last(console: Console, count: int) -> Console:
    cut = len(console.lines) - count
    before = console.before + sum(len(line.text.encode()) + 1 for line in console.lines[:cut])
    return msgspec.structs.replace(console, lines=console.lines[cut:], before=before)


def first_line(text: str) -> str:
    """Return a text's first line."""
    return text.partition("\n")[0]


def counted(cases: Sequence[Case]) -> Mapping[str, int]:
    """Count cases by outcome."""
    return Counter(case.outcome for case in cases)
