# SPDX-License-Identifier: MIT
"""The consoles' lines of all kernels on one clock, around a failure."""

from __future__ import annotations

import re
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence

from harness.diagnose.splats import Decoded
from harness.diagnose.told import Told
from harness.report.record import Console, visible

LINES, BEFORE = 40, 3
"""Lines that are shown: of the test, and from before it."""
WIDTH = 150
_PROMPT = re.compile(r"^\w+# (?:\^\[\[6n)?")
"""What the guest's shell prints, and asks of its terminal."""
_Line = tuple[float, str, str]


def merged(
    consoles: Sequence[Console], splats: Mapping[str, Sequence[Decoded]], told: Told, now: float
) -> tuple[str, str]:
    """Return what is shown, and all that is kept; in seconds before ``now``, a monotonic time.

    A splat, which is shown elsewhere, is one line of what is shown.
    """
    to_monotonic = time.time() - time.monotonic()
    lines = [(at - to_monotonic, one.kernel, text) for one in consoles for at, text in _unprompted(one)]
    lines = sorted((line for line in lines if line[2].strip()), key=lambda line: line[0])
    width = max((len(one.kernel) for one in consoles), default=0)

    def text(line: _Line, limit: int) -> str:
        return f"{line[0] - now:9.3f} s  {line[1]:<{width}} | {line[2][:limit]}"

    shown = list(_without_splats(lines, splats))
    of_test = [line for line in shown if line[0] >= told.began.at]
    before = [line for line in shown if line[0] < told.began.at][-BEFORE:]
    few = [text(line, WIDTH) for line in before]
    few += [f"{'-' * 12} the test begins"] if told.began.at else []
    if len(of_test) > LINES:
        few.append(f"[... {len(of_test) - LINES} lines left out ...]")
    few += [text(line, WIDTH) for line in of_test[-LINES:]] or ["(nothing was printed since then)"]
    return "\n".join(few), "\n".join(text(line, 1000) for line in lines) + "\n"


def _unprompted(console: Console) -> Iterator[tuple[float, str]]:
    """Yield lines without the prompt that a kernel's message stands behind: it is as old as the prompt."""
    for line, later in zip(console.lines, [*console.lines[1:], None], strict=True):
        text = _PROMPT.sub("", line.text.rstrip())
        behind = text.startswith("[") and text != line.text.rstrip() and later is not None
        yield later.at if behind and later is not None else line.at, text


def _without_splats(lines: Iterable[_Line], splats: Mapping[str, Sequence[Decoded]]) -> Iterable[_Line]:
    """Yield lines; of a splat the one that told, with a note of how many there are."""
    inside: dict[tuple[str, str], Decoded] = {}
    for name, found in splats.items():
        for one in found:
            for line in one.splat.text.splitlines():
                inside[name, _PROMPT.sub("", visible(line).rstrip())] = one
    told: set[int] = set()
    for at, name, text in lines:
        splat = inside.get((name, text))
        if splat is None:
            yield at, name, text
        elif id(splat) not in told:
            told.add(id(splat))
            count = splat.splat.last - splat.splat.first + 1
            yield at, name, f"{text} [{count} lines: see above]" if count > 1 else text
