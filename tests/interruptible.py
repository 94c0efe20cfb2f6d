# SPDX-License-Identifier: MIT
"""For tests of Ctrl-C: a script that starts tests with `&` has them ignore it, and all that they start."""

from __future__ import annotations

import signal


def interruptible() -> None:
    """Have this process and what it starts take SIGINT for what it is."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
