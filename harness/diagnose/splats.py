# SPDX-License-Identifier: MIT
"""Splats with file and line behind each place that their kernel's own build can tell of."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from harness.diagnose.images import image_of
from harness.diagnose.places import ABOUT, Places
from harness.klog.lines import read_line
from harness.klog.splat import Splat
from harness.lab import Lab

DECODED = 24
"""Lines of a splat that get a place."""
SHOWN = 4
"""Splats of a kernel that are shown."""
_PLACE = re.compile(
    r"(?P<unsure>\? )?\b(?P<function>[A-Za-z_][\w.]*)\+0x(?P<inside>[0-9a-f]+)/0x(?P<size>[0-9a-f]+)"
    r"(?: \[(?P<module>\w+)\])?"
)
_NOISE = re.compile(
    r"^(?:Modules linked in|Hardware name|RIP: 0033|R(?!IP)[A-Z0-9]{1,3}: [0-9a-f]{4}|FS: |CS: |DR[0-9]: |"
    r"Code: |CR[0-9]: |PKRU|Kernel Offset: disabled)"
)
_NOTE = f"({ABOUT}: by the sources of another build of this definition, whose lines may differ)"


@dataclass(frozen=True)
class Decoded:
    """A splat, its text with places, and the place of the function that it is about."""

    splat: Splat
    text: str
    place: str

    def __str__(self) -> str:
        return f"{self.splat.title} ({self.place})" if self.place else self.splat.title


def decoded(splat: Splat, places: Places, lines: int = DECODED) -> Decoded:
    """Return a splat without registers and prefixes; known places behind its first ``lines`` functions."""
    told = []
    left, about = lines, ""
    for number, raw in enumerate(splat.text.splitlines()):
        body = read_line(number, raw.encode("utf-8", "replace")).body.rstrip()
        if not body or _NOISE.match(body.lstrip()):
            continue
        found = _PLACE.search(body)
        place = ""
        if found is not None and not found["unsure"] and left > 0:
            left -= 1
            # What a trace names is where a call returns to; registers say where the kernel was.
            exact = "RIP" in body
            inside = int(found["inside"], 16) - (0 if exact else 1)
            place = places.of(found["function"], inside, int(found["size"], 16), found["module"] or "")
            about = about or (place if found["function"] in splat.title.split() else "")
        told.append(f"{body:<48} {place}" if place else body)
    # Registers are told twice, before the trace and behind it.
    text = "\n".join(dict.fromkeys(told))
    return Decoded(splat, f"{text}\n{_NOTE}" if f" {ABOUT}" in text else text, about)


def decoded_splats(lab: Lab, since: Mapping[str, int]) -> dict[str, list[Decoded]]:
    """Return each kernel's first splats since byte ``since`` of its console, an unexpected one first."""
    result = {}
    for name, console in lab.machine.consoles.items():
        begun = since.get(name, 0)
        first = console.unexpected(begun)
        splats = [one for one in console.splats(begun) if one.offset != (first.offset if first else -1)]
        # A panic follows what it is about.
        shown = ([first] if first else []) + splats
        if not shown:
            continue
        places = Places(image_of(lab, name))
        try:
            result[name] = [decoded(one, places) for one in shown[:SHOWN]]
        finally:
            places.close()
    return result
