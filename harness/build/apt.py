# SPDX-License-Identifier: MIT
"""Debian packages fetched and verified by apt, without root and without touching the computer.

apt gets folders, lists and a cache of its own for each suite. Where the packages come from is
read from the computer's own apt configuration: its Debian mirror serves the other suites too.
"""

from __future__ import annotations

import fnmatch
import functools
import os
import pwd
import re
import subprocess
from pathlib import Path

from filelock import FileLock

from harness import paths, process
from harness.build.mirrors import INSTEAD, Mirror, mirrors
from harness.errors import HarnessError
from harness.progress import Step

KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")


def download(pattern: str, suite: str, step: Step) -> tuple[Path, str]:
    """Fetch the newest package of ``suite`` whose name matches ``pattern``.

    Returns the verified .deb and its version. A fetch that was cut off is continued. Raises
    HarnessError when the suite cannot be reached or has no such package.
    """
    failures: list[str] = []
    for mirror in mirrors():
        folder = paths.cache() / "apt" / suite
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(folder / "harness.lock"):
            try:
                return _Apt(folder, mirror, suite).download(pattern, step)
            except HarnessError as error:
                failures.append(str(error.what) + (f"\n{error.details}" if error.details else ""))
    raise HarnessError(f"no {pattern} from {suite}", details="\n".join(failures), advice=INSTEAD)


class _Apt:
    """apt-get with folders of its own, for one mirror and one suite."""

    def __init__(self, folder: Path, mirror: Mirror, suite: str) -> None:
        self.folder = folder
        self.suite = suite
        self.options = ["-c", str(folder / "apt.conf")]
        for name in ("lists/partial", "cache/archives/partial"):
            (folder / name).mkdir(parents=True, exist_ok=True)
        (folder / "status").touch()
        (folder / "apt.conf").write_text(_configuration(folder))
        options = dict(mirror.options)
        if KEYRING.exists():
            options["signed-by"] = str(KEYRING)
        lines = [
            "Types: deb",
            f"URIs: {mirror.uri}",
            f"Suites: {suite}",
            "Components: main",
            "Targets: Packages",
        ]
        lines += [f"{key.title()}: {value}" for key, value in options.items()]
        (folder / "debian.sources").write_text("\n".join(lines) + "\n")

    def download(self, pattern: str, step: Step) -> tuple[Path, str]:
        step.update(f"reading the package list of {self.suite}")
        self._run("update", step)
        package, version = self._newest(pattern)
        step.update(f"fetching {package} {version}")
        self._run("download", step, f"{package}={version}")
        for deb in self.folder.glob(f"{package}_*.deb"):
            if _field(deb, "Version") == version:
                return deb, version
        raise HarnessError(f"apt-get did not leave {package} {version} in {self.folder}")

    def _newest(self, pattern: str) -> tuple[str, str]:
        names = self._query("pkgnames", re.split(r"[*?\[]", pattern)[0]).split()
        found: list[tuple[str, str]] = []
        for name in fnmatch.filter(names, pattern):
            for line in self._query("madison", name).splitlines():
                found.append((name, line.split("|")[1].strip()))
        if not found:
            raise HarnessError(f"{self.suite} has no package {pattern}")
        by_version = functools.cmp_to_key(_compare)
        return max(found, key=lambda pair: by_version(pair[1]))

    def _query(self, *words: str) -> str:
        command = ["apt-cache", *self.options, *words]
        result = subprocess.run(command, capture_output=True, text=True, check=False, env=_environment())
        return result.stdout

    def _run(self, verb: str, step: Step, *words: str) -> None:
        """Run apt-get, showing what it fetches; its errors end up in a HarnessError."""
        command = ["apt-get", *self.options, "-q", "-o", "APT::Status-Fd=1", verb, *words]
        log: list[str] = []
        with process.running(
            command,
            cwd=self.folder,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=_environment(),
        ) as child:
            assert child.stdout is not None
            for raw in child.stdout:
                line = raw.decode(errors="replace").rstrip()
                if line.startswith("dlstatus:"):
                    percent = line.split(":")[2]
                    step.update(f"{' '.join(words) or self.suite} {float(percent):.0f} %")
                else:
                    log.append(line)
            status = child.wait()
        if status != 0:
            errors = [line for line in log if line.startswith(("E:", "W:"))] or log
            raise HarnessError(f"apt-get {verb} for {self.suite} failed", details="\n".join(errors[-6:]))


def _configuration(folder: Path) -> str:
    """Write apt's configuration: own folders, and none of the computer's hooks.

    The computer's own hooks would, for example, empty /var/cache/apt as root.
    """
    settings = {
        "Dir::Etc::SourceList": folder / "debian.sources",
        "Dir::Etc::SourceParts": "/dev/null",
        "Dir::State::Lists": folder / "lists",
        "Dir::State::status": folder / "status",
        "Dir::Cache": folder / "cache",
        "APT::Architecture": "amd64",
        "APT::Sandbox::User": pwd.getpwuid(os.getuid()).pw_name,
        "APT::Update::Error-Mode": "any",
        "Acquire::PDiffs": "false",
        "Acquire::Languages": "none",
        "Acquire::Retries": "2",
        "Acquire::http::Timeout": "30",
        "Acquire::https::Timeout": "30",
    }
    hooks = ("APT::Update::Pre-Invoke", "APT::Update::Post-Invoke", "APT::Update::Post-Invoke-Success")
    lines = [f"#clear {hook};" for hook in (*hooks, "APT::Architectures")]
    lines += [f'{key} "{value}";' for key, value in settings.items()]
    return "\n".join(lines) + "\n"


def _environment() -> dict[str, str]:
    return {**os.environ, "LC_ALL": "C.UTF-8", "DEBIAN_FRONTEND": "noninteractive"}


def _compare(first: str, second: str) -> int:
    """Compare two Debian versions as dpkg does."""
    if first == second:
        return 0
    less = subprocess.run(["dpkg", "--compare-versions", first, "lt", second], check=False)
    return -1 if less.returncode == 0 else 1


def _field(deb: Path, name: str) -> str:
    result = subprocess.run(["dpkg-deb", "-f", deb, name], capture_output=True, text=True, check=False)
    return result.stdout.strip()
