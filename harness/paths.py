# SPDX-License-Identifier: MIT
"""Where the checkout's folders and the caches are.

mkharness runs from a checkout: definitions, fragments and guest sources are read from it, and
nothing is ever written into it. What is made goes to the cache folder.
"""

from __future__ import annotations

import os
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parent.parent
KERNELS = CHECKOUT / "kernels"
TOPOLOGIES = KERNELS / "topologies"
CONFIGS = CHECKOUT / "configs"
FAULTS = KERNELS / "faults"
INITRAMFS = CHECKOUT / "initramfs"


def cache() -> Path:
    """Return the cache folder: ``$MKHARNESS_CACHE``, else ``~/.cache/mkharness``."""
    return Path(os.environ.get("MKHARNESS_CACHE") or Path.home() / ".cache" / "mkharness")
