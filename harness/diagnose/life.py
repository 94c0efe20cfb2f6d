# SPDX-License-Identifier: MIT
"""How far each kernel got, and whether it still lives: its last line, its agent's answer, its heartbeat."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass

from harness.diagnose.vcpus import runs_payload
from harness.errors import HarnessError
from harness.klog.lines import STRIP
from harness.lab import Lab
from harness.multikernel.kernel import HEARTBEAT, parse_heartbeat
from harness.vm.channel import Channel
from harness.vm.state import State

ANSWER_LIMIT = 1.5
"""Seconds that agents have to answer, before scaling by the accelerator."""
BEATS_APART = 1.0
_WIDTH = 140


@dataclass(frozen=True)
class Life:
    """What is known of a kernel: ``said`` is its last line, ``ago`` how many seconds ago it came.

    ``answers`` is None where there is nobody to ask. ``beating`` and ``still`` are CPUs whose heartbeat
    went on, or did not, while it was asked.
    """

    kernel: str
    said: str
    ago: float
    answers: bool | None
    how: str
    beating: tuple[int, ...] = ()
    still: tuple[int, ...] = ()

    def __str__(self) -> str:
        last = f"; last line {self.ago:.1f} s ago: {self.said}" if self.said else ""
        return f"{self.kernel}: {self.how}{last}"


def lives(lab: Lab) -> tuple[Life, ...]:
    """Ask all kernels at once; return what each told, also where it told nothing, in a few seconds."""
    found: dict[str, str | HarnessError] = {}
    now = time.monotonic()
    asked = []
    limit = ANSWER_LIMIT * lab.accel.factor
    for name, channel in lab.machine.channels.items():
        alive = lab.machine.state is State.LIVE and not lab.machine.console(name).panicked
        if channel.ready and alive and not runs_payload(lab, name):
            # Nobody waits for one that hangs: it ends with the machine.
            thread = threading.Thread(target=_ask, args=(channel, name, found), daemon=True)
            thread.start()
            asked.append((name, thread))
    for _, thread in asked:
        thread.join(max(0.0, now + limit - time.monotonic()))
    silent = HarnessError("")
    told = {name: found.get(name, silent) for name, _ in asked}
    return tuple(_life(lab, name, now, told.get(name)) for name in lab.machine.consoles)


def _ask(channel: Channel, name: str, found: dict[str, str | HarnessError]) -> None:
    read = f"mkctl heartbeat-read {HEARTBEAT}"
    command = f"if test -e {HEARTBEAT}; then {read}; echo; sleep {BEATS_APART}; {read}; fi"
    try:
        found[name] = channel.run(command, timeout=ANSWER_LIMIT, watch=False).text
    except HarnessError as error:
        found[name] = error


def _life(lab: Lab, name: str, now: float, told: str | HarnessError | None) -> Life:
    """Put together what is known of a kernel; ``told`` is None where it was not asked."""
    said, ago = _last_line(lab, name, now)
    if told is None:
        if lab.machine.console(name).panicked:
            how = "has panicked"
        elif runs_payload(lab, name):
            how = "runs the payload, which has no agent"
        elif lab.machine.state is not State.LIVE:
            how = "cannot be asked any more"
        else:
            how = "has no agent that answered yet" if said else "has printed nothing: it was not started"
        return Life(name, said, ago, None, how)
    if isinstance(told, HarnessError):
        why = f" ({told.what})" if told.what and not told.timed_out else ""
        limit = ANSWER_LIMIT * lab.accel.factor
        return Life(name, said, ago, False, f"does not answer its agent's line within {limit:g} s{why}")
    beating, still = _beats(told)
    how = "answers" + (f", its heart beats on CPU {_list(beating)}" if beating else "")
    how += f", but NOT on CPU {_list(still)}" if still else ""
    return Life(name, said, ago, True, how, beating, still)


def _beats(told: str) -> tuple[tuple[int, ...], tuple[int, ...]]:
    try:
        first, second = map(parse_heartbeat, told.split("\n\n"))
    except (HarnessError, ValueError):
        return (), ()
    still = second.stopped_since(first)
    return tuple(cpu for cpu in second.cpus if cpu not in still), tuple(still)


def _last_line(lab: Lab, name: str, now: float) -> tuple[str, float]:
    lines, _ = lab.machine.console(name).last(20)
    for line in reversed(lines):
        text = STRIP.sub("", line.text).strip()
        if text:
            return text[:_WIDTH], max(0.0, now - line.time)
    return "", 0.0


def _list(cpus: tuple[int, ...]) -> str:
    return ", ".join(map(str, cpus))
