# SPDX-License-Identifier: MIT
"""A kept failure as plain text for a reply to a mailing list: narrow, in ASCII, below 100 KB."""

from __future__ import annotations

import textwrap
import time
from collections.abc import Iterable, Iterator

import msgspec

from harness.build import kconfig, store
from harness.build.initramfs import member
from harness.definition import Definition, load_definition
from harness.errors import HarnessError
from harness.failure import CONSOLES, Failure
from harness.report import byhand
from harness.vm import steps

WIDTH = 76
LIMIT = 100_000
"""Bytes of the whole text."""
EXPLANATION, CONSOLE, SPARE = 12_000, 16_000, 1_000
"""Bytes of what the test told and of the consoles, at most."""
STEPS = "steps.json"
"""What was done to the machine, among the files of a kept failure."""
BEGIN_CONFIG, END_CONFIG = "---- >8 ---- .config", "---- 8< ---- .config"
BEGIN, END = "---- >8 ---- repeat.sh", "---- 8< ----"


def text(failure: Failure) -> str:
    """Return the text; what does not fit is left out, and that said."""
    head = [*_what(failure), *_kernel(failure), *_with_mkharness(failure)]
    by_hand = [*_section("Without mkharness"), *_script(failure)]
    room = LIMIT - _size([*head, *by_hand]) - SPARE
    if room < 0:
        by_hand = [*by_hand[:4], "It is too long for a mail: `mkh reproduce --script` prints it alone."]
        room = CONSOLE
    tail = [*_section("The consoles, on one clock"), *_end(failure.text(CONSOLES), min(room, CONSOLE))]
    return "\n".join([*head, *by_hand, *tail]) + "\n"


def _size(lines: Iterable[str]) -> int:
    return sum(len(line) + 1 for line in lines)


def script(failure: Failure) -> str:
    """Return the script that repeats a failure by hand. Raises HarnessError where nothing is known of it."""
    kept = failure.text(STEPS)
    if not kept or not failure.qemu:
        raise HarnessError(
            f"what was done to the machine of {failure.name or failure.test} was not kept",
            advice="let the test fail once more; its machine must have run",
        )
    try:
        done = steps.from_json(kept)
    except msgspec.MsgspecError as error:
        raise HarnessError(f"{failure.folder / STEPS} is damaged: {error}") from None
    definition = _definition(failure)
    dialect = definition.dialect if definition else "reference"
    return _ascii(byhand.script(done, qemu=failure.qemu, dialect=dialect, payload=_payload(failure)))


def _script(failure: Failure) -> list[str]:
    try:
        made = script(failure)
    except HarnessError as error:
        return _wrapped(str(error.what))
    return [
        *_wrapped(
            "This is what mkharness did to the machine and its kernels, in its order, as a script: the"
            " QEMU command line, the steps in each kernel's shell with the answers that mkharness got"
            " (#>), and the C program that makes the system calls. Save what is between the scissors, then"
        ),
        "",
        f"    {_usage(made)}",
        "",
        *_wrapped(
            "with the kernel and, where named, its build folder. tsc_early_khz and lpj are of the computer"
            " that it ran on."
        ),
        "",
        BEGIN,
        made.rstrip("\n"),
        END,
    ]


def _usage(made: str) -> str:
    return next(line.removeprefix("#").strip() for line in made.splitlines() if "bash repeat.sh" in line)


def _what(failure: Failure) -> Iterator[str]:
    yield from _wrapped(f"What fails: {failure.claim or failure.test}")
    yield from _fields({"claimed by": failure.source, "seen": failure.why, "machine": failure.machine})
    when = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(failure.ended))
    yield from _fields({"test": failure.test, "at": when, "seed": failure.seed})
    if failure.explanation.strip():
        yield from _section("What the test told")
        yield from _end(failure.explanation, EXPLANATION, first=True)


def _kernel(failure: Failure) -> Iterator[str]:
    yield from _section("Kernel and series")
    entry = store.find(failure.digest) if failure.digest else None
    meta = store.read_meta(entry) if entry else None
    yield from _fields(
        {
            "release": f"Linux {failure.release}",
            "base": meta.source if meta else failure.source_tree,
            "series": f"{meta.patches} patches, digest {failure.series}" if meta else failure.series,
            "compiler": meta.inputs.get("compiler", "") if meta else "",
            "build": failure.digest,
            "machine": f"{failure.topology}, {failure.accel}",
        }
    )
    definition = _definition(failure)
    saved = entry / store.DEFCONFIG if entry else None
    if saved is not None and saved.is_file():
        yield from _saved(saved.read_text("utf-8", "replace"))
    elif definition is not None:
        yield from _asked(definition)


def _saved(lines: str) -> Iterator[str]:
    yield ""
    yield from _wrapped(
        "Configuration: what differs from the defaults of this tree, the series applied. With these lines"
        " as its .config, `make olddefconfig` makes the whole of it."
    )
    yield from ("", BEGIN_CONFIG, *_ascii(lines).strip().split("\n"), END_CONFIG)


def _asked(definition: Definition) -> Iterator[str]:
    yield from _wrapped(
        f"Configuration: `make tinyconfig`, and on top of it ({', '.join(definition.configs)}):"
    )
    wishes = kconfig.read_fragments(definition.configs)
    asked = [f"{one.symbol}={one.value}" for one in wishes]
    yield from textwrap.wrap(
        " ".join(asked), WIDTH, initial_indent="    ", subsequent_indent="    ", break_on_hyphens=False
    )


def _with_mkharness(failure: Failure) -> Iterator[str]:
    yield from _section("With mkharness")
    for purpose, command in failure.commands.items():
        yield f"{purpose}:"
        yield from (f"    {line}" for line in _command(command))


def _command(command: str) -> Iterator[str]:
    """Fold a command for a shell."""
    line = ""
    for word in command.split(" "):
        if line.strip() and len(line) + len(word) > WIDTH - 7:
            yield f"{line} \\"
            line = " "
        line += f" {word}" if line else word
    yield line


def _section(title: str) -> list[str]:
    return ["", title, "-" * len(title), ""]


def _fields(fields: dict[str, str]) -> Iterator[str]:
    for name, value in fields.items():
        if value.strip(" ,"):
            yield from textwrap.wrap(
                _ascii(f"  {name + ':':12}{value}"), WIDTH, subsequent_indent=" " * 14, break_on_hyphens=False
            )


def _wrapped(words: str) -> list[str]:
    return textwrap.wrap(_ascii(words), WIDTH, break_long_words=False, break_on_hyphens=False)


def _end(told: str, room: int, *, first: bool = False) -> list[str]:
    """Return a text's lines, folded; where there is no room for all, the end of it, or its beginning."""
    lines: list[str] = []
    for line in _ascii(told.expandtabs(4)).rstrip().split("\n"):
        lines += textwrap.wrap(line, WIDTH, subsequent_indent="      ", drop_whitespace=False) or [""]
    kept: list[str] = []
    for line in lines if first else reversed(lines):
        room -= len(line) + 1
        if room < 0:
            break
        kept.append(line)
    left = len(lines) - len(kept)
    note = [f"[... {left} lines left out ...]"] if left else []
    return [*kept, *note] if first else [*note, *reversed(kept)]


def _ascii(shown: str) -> str:
    """Return text without what mail programs might change: other letters, control characters."""
    return "".join(c if " " <= c <= "~" or c in "\n\t" else _escaped(c) for c in shown)


def _escaped(sign: str) -> str:
    return f"\\x{ord(sign):02x}" if ord(sign) < 0x100 else f"\\u{ord(sign):04x}"


def _definition(failure: Failure) -> Definition | None:
    try:
        return load_definition(failure.kernel or "reference")
    except HarnessError:
        return None


def _payload(failure: Failure) -> bytes:
    entry = store.find(failure.digest) if failure.digest else None
    return member(entry / "host-initrd.cpio", "boot/payload") if entry else b""
