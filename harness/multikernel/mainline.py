# SPDX-License-Identifier: MIT
"""A kernel without a series: it boots as a host, hands over by KHO, and starts no further kernels."""

from __future__ import annotations

from typing import Never

from harness.errors import UsageError
from harness.multikernel.dialect import Dialect


def _starts_none(*_: object) -> Never:
    raise UsageError(
        "this kernel starts no further kernels: it is built without a multikernel series",
        advice="choose a definition with one (--kernel reference, rfc-v1, rfc-v2 or tree), "
        "or write one that names yours",
    )


MAINLINE = Dialect(
    name="mainline",
    kimage="",
    # Both are off by default. A kernel that has neither hands the words to its first program.
    host_arguments=lambda topology: ("kho=on", "liveupdate=on"),
    spawned_arguments=_starts_none,
    grant=_starts_none,
    load=_starts_none,
    start=_starts_none,
    to_spawned=_starts_none,
    to_host=0,
    pooled=False,
)
