# SPDX-License-Identifier: MIT
"""The dialects that there are."""

from __future__ import annotations

from harness.errors import UsageError
from harness.multikernel.dialect import Dialect
from harness.multikernel.mainline import MAINLINE
from harness.multikernel.reference import REFERENCE
from harness.multikernel.tree import TREE
from harness.multikernel.v1 import V1
from harness.multikernel.v2 import V2

DIALECTS = {dialect.name: dialect for dialect in (REFERENCE, V1, V2, TREE, MAINLINE)}


def find_dialect(name: str) -> Dialect:
    """Return the dialect that a definition names. Raises UsageError when there is none."""
    try:
        return DIALECTS[name]
    except KeyError:
        known = ", ".join(sorted(DIALECTS))
        raise UsageError(
            f"there is no dialect {name!r}", advice=f"the definition's dialect is one of: {known}"
        ) from None
