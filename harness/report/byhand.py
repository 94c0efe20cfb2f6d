# SPDX-License-Identifier: MIT
"""What was done to a machine as a script that does it without mkharness: QEMU, shell, a C program.

The guests get busybox, the sources of the sub-commands of ``mkctl`` that the steps use, and the same
kernel command lines; what mkharness only measures with, its heartbeats and canaries, is left out.
"""

from __future__ import annotations

import base64
import lzma
import re
import shlex
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from jinja2 import Environment, PackageLoader

from harness import paths
from harness.vm.steps import OUTSIDE, TYPED, Step

WIDTH = 76
"""Columns of a line."""
SOURCES = {
    "load-file": "load_file.c",
    "unload-file": "load_file.c",
    "load-v1": "load_v1.c stub.c",
    "unload-v1": "load_v1.c stub.c",
    "multikernel": "small.c",
    "write-once": "small.c",
    "serial-irq": "small.c",
    "serial-port": "small.c",
    "calls": "calls.c call.c call.h",
    "race": "calls.c call.c call.h",
    "hold": "hold.c calls.c call.c call.h",
    "shoot": "shoot.c",
    "pipe": "pipe.c",
}
"""Where in initramfs/mkctl the sub-commands are."""
ALWAYS = ("serial-irq", "serial-port")
MEASURING = re.compile(r"mkctl (heartbeat|canary)|/run/heartbeat")
"""Commands by which mkharness looks at a kernel, and which nothing depends on."""
MODULES = ("mkmsg", "mkfault", "mkraw")
TIMES = 20
"""A command that mkharness repeated until the answer was the awaited one is repeated so often at most."""
SAID = 60
"""Lines of an answer that are shown."""
FOLD = "=>"


def script(
    steps: Iterable[Step], *, qemu: str, dialect: str, payload: bytes = b"", width: int = WIDTH
) -> str:
    """Return the script. ``qemu`` is the machine's command line, ``payload`` what /boot/payload was."""
    done = [step for step in steps if not MEASURING.search(step.command)]
    text = "\n".join(step.command for step in done)
    jinja = Environment(loader=PackageLoader("harness.report"), trim_blocks=True, lstrip_blocks=True)
    arguments, cmdline, lines = by_hand(shlex.split(qemu))
    return jinja.get_template("byhand.sh.j2").render(
        vmlinux="/boot/vmlinux" in text,
        sources=_folded(_mkctl(text), width),
        modules={
            name: (_make(name, dialect), _folded(files, width))
            for name, files in _modules(text, dialect).items()
        },
        steps=[_step(step, width) for step in done],
        payload=_lines(lzma.compress(payload), width) if "/boot/payload" in text and payload else "",
        lines="\\\n".join(_cut(" ".join(lines), width - 10)),
        cmdline="\\\n".join(_cut(re.sub(r'([\\"$`])', r"\\\1", cmdline), width - 2)),
        qemu=_shell(arguments, width),
    )


def by_hand(argv: Sequence[str]) -> tuple[list[str], str, list[str]]:
    """Return QEMU's arguments for somebody without the harness, the kernel's command line, and the lines.

    The machine boots; its serial lines are named pipes in the current folder, as is its monitor.
    """
    kept, cmdline, lines = ["qemu-system-x86_64"], "", []
    words = iter(argv[1:])
    for option in words:
        if option in {"-S", "-nodefaults", "-no-user-config"}:
            kept += [] if option == "-S" else [option]
            continue
        value = next(words, "")
        if option in {"-incoming", "-object", "-mon", "-action", "-netdev"} or value.startswith("socket,"):
            continue
        if option == "-machine":
            value = value.replace(",memory-backend=ram", "")
        elif option == "-chardev" and value.startswith("pipe,"):
            head, _, path = value.partition("path=")
            lines.append(Path(path).name)
            value = f"{head}path={lines[-1]}"
        elif option == "-kernel":
            value = "$bzimage"
        elif option == "-initrd":
            value = "host.cpio"
        elif option == "-append":
            cmdline, value = value, "$cmdline"
        elif option == "-device" and "netdev=" in value:
            continue
        kept += [option, value]
    kept += ["-chardev", "pipe,id=monitor,path=monitor", "-mon", "chardev=monitor", "-no-reboot"]
    return kept, cmdline, lines


def _shell(arguments: Sequence[str], width: int) -> str:
    """Return a command as lines that end in backslashes; ``$NAME`` are the script's variables."""
    words = [f'"{word}"' if word.startswith("$") else shlex.quote(word) for word in arguments]
    shown, line = [], ""
    for word in words:
        if line and len(line) + len(word) + 3 > width:
            shown.append(f"{line} \\")
            line = "\t"
        line += word if line in {"", "\t"} else f" {word}"
    return "\n".join([*shown, line])


def _step(step: Step, width: int) -> str:
    if step.kernel == OUTSIDE:
        monitor = step.command.removeprefix("QEMU's monitor: ")
        if monitor == step.command and step.command != "NMI on all vCPUs":
            return "\n".join(f"# from outside: {line}" for line in _cut(step.command, width - 16))
        return f"outside {shlex.quote('nmi' if monitor == step.command else monitor)}"
    if step.ended == TYPED:
        return f"typed {step.kernel} {shlex.quote(step.command)}"
    if step.file:
        if not step.data and step.size:
            return f"# a file of {step.size:,} bytes goes to {step.file} in {step.kernel}: not kept"
        return f"put {step.kernel} {step.file} <<'END'\n{_lines(step.data, width)}\nEND"
    times = f" {min(step.times, TIMES)}" if step.times > 1 else ""
    was = step.ended.replace(" ", "-") or "unknown"
    told = step.said.splitlines()
    answer = [f"#> {line}" for told_line in told[-SAID:] for line in _cut(_plain(told_line), width - 3)[:3]]
    left = [f"#> ({len(told) - SAID} lines before)"] if len(told) > SAID else []
    head = f"step {step.kernel} {was}{times} <<'END-OF-STEP'"
    return "\n".join([head, fold(step.command, width), "END-OF-STEP", *left, *answer])


def fold(text: str, width: int) -> str:
    """Fold lines that are too long, with a mark that the script's ``unfold`` takes out again."""
    shown = []
    for line in text.rstrip("\n").split("\n"):
        *parts, last = _cut(line, width - len(FOLD))
        # A mark of the text's own would be taken for a fold.
        shown += [*(part + FOLD for part in parts), f"{last} " if last.endswith(FOLD) else last]
    return "\n".join(shown)


def _folded(sources: Mapping[str, str], width: int) -> dict[str, str]:
    return {name: fold(text.expandtabs(2), width) for name, text in sources.items()}


def _cut(line: str, width: int) -> list[str]:
    """Cut a line into parts, after blanks where there are any; joined they are the line."""
    parts = []
    while len(line) > width:
        at = line.rfind(" ", width // 2, width) + 1 or width
        parts.append(line[:at])
        line = line[at:]
    return [*parts, line]


def _plain(text: str) -> str:
    return "".join(c if " " <= c <= "~" else " " if c == "\t" else "?" for c in text)


def _lines(data: bytes, width: int) -> str:
    text = base64.b64encode(data).decode()
    return "\n".join(text[at : at + width] for at in range(0, len(text), width))


def _mkctl(text: str) -> dict[str, str]:
    """Return the sources of the sub-commands that occur in a text, with a table of these alone."""
    folder = paths.INITRAMFS / "mkctl"
    used = [name for name in SOURCES if name in ALWAYS or re.search(rf"mkctl {name}\b", text)]
    files = dict.fromkeys(file for name in used for file in SOURCES[name].split())
    # What stands in one file with what is used goes along.
    whole = [name for name in SOURCES if set(SOURCES[name].split()) <= set(files)]
    found = {name: (folder / name).read_text("utf-8") for name in ("mkctl.h", "util.c", *files)}
    rows = "".join(f'  {{ "{name}", cmd_{name.replace("-", "_")}, "" }},\n' for name in whole)
    main = (folder / "mkctl.c").read_text("utf-8")
    found["mkctl.c"] = re.sub(r"(commands\[\] = \{\n).*?(\n?\};)", rf"\1{rows}\2", main, flags=re.DOTALL)
    return found


def _modules(text: str, dialect: str) -> dict[str, Mapping[str, str]]:
    """Return the sources of the modules that occur in a text."""
    found: dict[str, Mapping[str, str]] = {}
    for name in MODULES:
        if name not in text:
            continue
        files = sorted((paths.INITRAMFS / "modules" / name).iterdir())
        found[name] = {
            file.name: file.read_text("utf-8")
            for file in files
            if file.suffix in {".c", ".h", ""}
            and not file.name.startswith(".")
            and ("_api_" not in file.name or file.stem.endswith(f"_api_{dialect}"))
        }
    return found


def _make(module: str, dialect: str) -> str:
    return f"MKMSG_API={dialect} " if module == "mkmsg" else ""
