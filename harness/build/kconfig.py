# SPDX-License-Identifier: MIT
"""Configuration fragments onto tinyconfig, and whether the kernel granted what they ask for.

A symbol whose dependencies are not met silently stays off; here that is an error that says which
dependency is missing, found out by the kernel's own parser.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from harness import paths, process
from harness.build.inputs import digest_of
from harness.build.messages import errors, read
from harness.build.worktree import OUTPUT
from harness.errors import HarnessError, UsageError

PROBE = Path(__file__).with_name("kconfig_why.c")
PROBE_OBJECTS = ("confdata", "expr", "lexer.lex", "menu", "parser.tab", "preprocess", "symbol", "util")
TELLING = ("no such symbol", "Defined at", "Depends on", "Visible if", "Range", "Symbol:")
STAMP = ".mkharness-config"
"""In the build folder: says from what its .config was made."""
SAID = ".mkharness-config.log"
"""In the build folder: what make printed when it made the .config."""

Env = Mapping[str, str] | None


@dataclass(frozen=True)
class Wish:
    """One line of a fragment: ``symbol`` (without CONFIG_) shall have ``value``; "n" means off."""

    symbol: str
    value: str
    fragment: str
    line: int

    def __str__(self) -> str:
        return f"CONFIG_{self.symbol}={self.value} ({self.fragment}.config, line {self.line})"


def read_fragments(names: Sequence[str], folder: Path | None = None) -> tuple[Wish, ...]:
    """Read the fragments ``names`` of configs/ or ``folder``; what several set must agree.

    Raises UsageError for a missing fragment, a line that is no setting, and a contradiction.
    """
    wishes: dict[str, Wish] = {}
    for name in names:
        for wish in _read((folder or paths.CONFIGS) / f"{name}.config"):
            other = wishes.setdefault(wish.symbol, wish)
            if other.value != wish.value:
                raise UsageError(
                    f"fragments contradict each other: {other}, {wish}", advice="change one of them"
                )
    return tuple(wishes.values())


def _read(file: Path) -> Iterable[Wish]:
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        known = ", ".join(sorted(path.stem for path in file.parent.glob("*.config")))
        raise UsageError(
            f"cannot read the fragment {file}: {error}", advice=f"choose from: {known}"
        ) from None
    for number, line in enumerate(lines, 1):
        setting = re.fullmatch(r"CONFIG_(\w+)=(.+?)\s*", line)
        unset = re.fullmatch(r"# CONFIG_(\w+) is not set\s*", line)
        if setting:
            yield Wish(setting[1], setting[2], file.stem, number)
        elif unset:
            yield Wish(unset[1], "n", file.stem, number)
        elif line.strip() and not line.startswith("#"):
            raise UsageError(
                f"{file}, line {number} is no setting: {line!r}",
                advice="write CONFIG_NAME=value, or a # comment",
            )


def digest(wishes: Iterable[Wish]) -> str:
    """Return a digest of what is asked for; comments and order do not count."""
    return digest_of(*sorted(f"{wish.symbol}={wish.value}" for wish in wishes))


def configure(tree: Path, output: Path, wishes: Sequence[Wish], make: Sequence[str], env: Env = None) -> str:
    """Write ``output``/.config: tinyconfig with the wishes on top, completed by defaults.

    ``make`` is the command up to the target, run with the environment ``env``. Returns what it
    printed. What did not change is not compiled again: kbuild compares the symbols. Raises
    HarnessError naming every wish that was not granted, and why.
    """
    config, said = output / ".config", output / SAID
    stamp = output / STAMP
    wanted = digest_of(digest(wishes), _sources(tree), *make)
    made = stamp.exists() and config.exists() and said.exists()
    if made and stamp.read_text() == digest_of(wanted, config.read_text()):
        return said.read_text()
    stamp.unlink(missing_ok=True)
    said.write_text(_run([*make, "tinyconfig"], env))
    asked = {wish.symbol: wish.value for wish in wishes}
    # Lines that are replaced, not contradicted further down: Kconfig would warn of each.
    kept = [line for line in config.read_text().splitlines() if _symbol(line) not in asked]
    lines = [
        f"# CONFIG_{name} is not set" if value == "n" else f"CONFIG_{name}={value}"
        for name, value in asked.items()
    ]
    config.write_text("\n".join([*kept, *lines, ""]))
    said.write_text(said.read_text() + _run([*make, "olddefconfig"], env))
    granted = values(config)
    denied = [wish for wish in wishes if granted.get(wish.symbol, "n") != wish.value]
    if denied:
        lines = [f"{wish}: it is {granted.get(wish.symbol, 'off')}" for wish in denied]
        raise HarnessError(
            f"the kernel did not grant {len(denied)} of {len(wishes)} configuration symbols: "
            + ", ".join(f"CONFIG_{wish.symbol} ({wish.fragment}.config)" for wish in denied),
            details="\n".join([*lines, _explain(denied, tree, output, make, env)]).rstrip(),
            advice="add what the symbol depends on to the fragment; a symbol that does not exist "
            "belongs to another source, or the series that brings it is missing",
        )
    stamp.write_text(digest_of(wanted, config.read_text()))
    return said.read_text()


def minimal(output: Path, make: Sequence[str], env: Env = None) -> str:
    """Return the lines of ``output``/.config that differ from the tree's own defaults.

    Written to a .config, `make olddefconfig` gives the whole again. ``make`` is as for ``configure``.
    """
    config, saved = output / ".config", output / "defconfig"
    if not saved.exists() or saved.stat().st_mtime_ns <= config.stat().st_mtime_ns:
        saved.unlink(missing_ok=True)
        _run([*make, "savedefconfig"], env)
    return saved.read_text()


def _sources(tree: Path) -> str:
    """Return a digest of every Kconfig file of a tree, so that it is known when one changed."""
    hasher = hashlib.sha256()
    for at, folders, names in os.walk(tree):
        folders[:] = sorted(name for name in folders if name not in ("Documentation", OUTPUT))
        for name in sorted(names):
            if name.startswith("Kconfig") or name.startswith("tiny"):
                file = Path(at, name)
                hasher.update(f"{file}\0".encode() + file.read_bytes())
    return hasher.hexdigest()


def values(config: Path) -> dict[str, str]:
    """Read a .config; symbols that are off do not appear."""
    text = config.read_text(encoding="utf-8", errors="replace")
    return dict(re.findall(r"^CONFIG_(\w+)=(.*)$", text, re.MULTILINE))


def _symbol(line: str) -> str | None:
    """Return the symbol that a line of a .config is about."""
    found = re.match(r"(?:# )?CONFIG_(\w+)(?:=| is not set)", line)
    return found[1] if found else None


def _explain(denied: Sequence[Wish], tree: Path, output: Path, make: Sequence[str], env: Env) -> str:
    """Ask the kernel's own parser on what the denied symbols depend, with the values that it sees."""
    kconfig = output / "scripts/kconfig"
    probe = kconfig / "mkharness-why"
    includes = [f"-I{tree}/scripts/kconfig", f"-I{tree}/scripts/include", f"-I{kconfig}"]
    objects = [str(kconfig / f"{name}.o") for name in PROBE_OBJECTS]
    built = subprocess.run(
        [shutil.which("gcc") or "gcc", *includes, "-o", str(probe), str(PROBE), *objects],
        capture_output=True,
        check=False,
    )
    if built.returncode != 0:
        return ""
    # The rule of `make config` runs any program of that folder, with the environment Kconfig needs.
    command = [*make, "-s", f"config-prog={probe.name}", "config"]
    names = " ".join(wish.symbol for wish in denied)
    environment = {**(os.environ if env is None else env), "MKHARNESS_SYMBOLS": names}
    said = subprocess.run(command, capture_output=True, text=True, check=False, env=environment).stdout
    telling: list[str] = []
    listing = False
    for line in said.splitlines():
        # Of the selecting symbols only those count that are on.
        listing = line.startswith("Selected by [y]") or (listing and line.startswith("  - "))
        if listing or line.strip().startswith(TELLING):
            telling.append(line.rstrip())
    return "\n".join(telling)


def _run(command: Sequence[str], env: Env) -> str:
    # What make starts ends with the harness, or it would write into the next build's folder.
    output = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    with process.running(command, stdin=subprocess.DEVNULL, env=env, **output) as child:
        said: str = child.communicate()[0].decode(errors="replace")
    if child.returncode != 0:
        raise HarnessError(
            f"`make {command[-1]}` failed",
            details="\n".join(map(str, errors(read(said.splitlines())))) or said[-1500:],
            advice="correct the Kconfig file that is named; `make setup` installs what a kernel build needs",
        )
    return said
