# SPDX-License-Identifier: MIT
"""What a machine begins with: empty memory, or the memory and state of one that was frozen."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from harness.errors import HarnessError
from harness.vm import migration
from harness.vm.migration import ForkError
from harness.vm.qmp import Qmp
from harness.vm.transcript import History


@dataclass(frozen=True)
class Origin:
    """``ram`` opens the memory's file, for as long as the machine is there.

    With a ``state`` the machine does not boot but goes on where another was frozen. With
    ``private`` its writes do not reach the file. ``histories`` are what its consoles had printed.
    """

    ram: Callable[[], AbstractContextManager[BinaryIO]]
    state: Path | None = None
    private: bool = False
    histories: Mapping[str, History] = field(default_factory=dict)

    @contextmanager
    def opened(self) -> Iterator[BinaryIO | None]:
        """Open the state for QEMU to inherit; yield None for a machine that boots."""
        if self.state is None:
            yield None
            return
        try:
            state = self.state.open("rb")
        except OSError as error:
            raise ForkError(f"the state {self.state} cannot be read: {error}") from None
        with state:
            yield state

    def begin(self, qmp: Qmp, state: BinaryIO | None) -> None:
        """Let a QEMU that waits for a state go on from there; one that boots has begun by itself."""
        if state is not None:
            migration.load(qmp, state)
            qmp.execute("cont")

    def failure(self, what: str, details: str) -> HarnessError:
        """Return the error to raise when QEMU does not come up."""
        if self.state is not None:
            return ForkError(f"a machine did not go on from {self.state}: {what}", details=details)
        advice = "correct the topology or the command line; --accel tcg avoids KVM"
        return HarnessError(what, details=details, advice=advice)
