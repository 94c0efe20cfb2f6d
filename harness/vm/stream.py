# SPDX-License-Identifier: MIT
"""pexpect on what a console has printed."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from io import StringIO

from pexpect import EOF, TIMEOUT
from pexpect.spawnbase import SpawnBase

from harness.klog.splat import Splat
from harness.vm.transcript import Transcript
from harness.vm.watch import TAIL_QUIET, Watch

WINDOW = 1 << 20
"""Characters that a match can have: what is awaited in a flood must not be sought in all of it each time."""


class Stream(SpawnBase):  # type: ignore[misc]
    """What a console prints from now on, for one wait after another.

    Its end of file means that no more is to be waited for: ``trouble`` is the splat that says so,
    or None when ``over`` does. While ``watching`` is False, splats pass. ``data`` is what has been
    printed; ``changed`` guards it and tells of more.
    """

    _before: StringIO

    def __init__(
        self, data: Transcript, changed: threading.Condition, watch: Watch, over: Callable[[], bool]
    ) -> None:
        super().__init__(encoding="utf-8", codec_errors="replace", maxread=65536, searchwindowsize=WINDOW)
        self.watching = True
        self.trouble: Splat | None = None
        self._data = data
        self._changed = changed
        self._watch = watch
        self._over = over
        self._position = len(data)
        self._passed = len(data)

    def read_nonblocking(self, size: int = 1, timeout: float | None = None) -> str:
        """Wait for more text. Raises pexpect's TIMEOUT and EOF."""
        data = self._read(size, timeout)
        if self._before.tell() > 4 * WINDOW:
            # pexpect keeps all that did not match.
            unmatched, self._before = self._before, StringIO()
            self._before.write(unmatched.getvalue()[-WINDOW:])
        self._position += len(data)
        return str(self._decoder.decode(data))

    def _read(self, size: int, timeout: float | None) -> bytes:
        # Never beyond a splat that was not dealt with: pexpect must have looked at all before it.
        limit = None if timeout is None else time.monotonic() + timeout
        with self._changed:
            while True:
                splat = next(self._watch.ending(self._passed), None)
                end = len(self._data) if splat is None else min(len(self._data), splat.offset)
                if end > self._position:
                    return self._data.read(self._position, min(end, self._position + size))
                verdict = splat is not None and self.watching and self._watch.unexpected(splat)
                if splat is not None and verdict is not None:
                    self._passed = splat.offset
                    if verdict:
                        self.trouble = splat
                        raise EOF("the kernel is in trouble")
                    continue
                if splat is None and self._over():
                    raise EOF("the machine has ended")
                left = None if limit is None else limit - time.monotonic()
                if left is not None and left <= 0:
                    raise TIMEOUT("nothing came")
                # What a splat is may also become clear by silence.
                look = TAIL_QUIET / 5
                self._changed.wait(left if splat is None else look if left is None else min(left, look))
