# SPDX-License-Identifier: MIT
"""Known bugs of a series: which claims fail because of which bug.

They stand beside the definition, in ``kernels/NAME.known.toml``. For exactly the series that the file
names, a claim that fails no more is a failure, so that the entry goes; for another (a re-roll), it
is a pass.
"""

from __future__ import annotations

import tomllib
from pathlib import Path

import msgspec

from harness import paths
from harness.definition import Definition, split_name
from harness.errors import UsageError


class Bug(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One claim (``AREA/FILE.py::TEST``, or with ``[CASE]`` behind) that fails, the bug's id, and why."""

    claim: str
    bug: str
    why: str


class Known(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The known bugs of one definition; ``series`` are the digests of the series that surely have them."""

    series: tuple[str, ...] = ()
    bugs: tuple[Bug, ...] = ()

    def find(self, case: str) -> Bug | None:
        """Return the bug that makes a test case fail, by its node id below ``tests/conformance/``."""
        for bug in self.bugs:
            if case == bug.claim or case.partition("[")[0] == bug.claim:
                return bug
        return None


def file_of(definition: Definition) -> Path:
    """Return where a definition's known bugs are listed."""
    return paths.KERNELS / f"{split_name(definition.name)[0]}.known.toml"


def read(definition: Definition) -> Known:
    """Return a definition's known bugs. Raises UsageError when their file is not valid."""
    file = file_of(definition)
    try:
        return msgspec.convert(tomllib.loads(file.read_text(encoding="utf-8")), Known)
    except FileNotFoundError:
        return Known()
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError, msgspec.ValidationError) as error:
        raise UsageError(
            f"{file} is no list of known bugs: {error}",
            advice="it has `series`, a list of digests, and [[bugs]] with claim, bug and why",
        ) from None
