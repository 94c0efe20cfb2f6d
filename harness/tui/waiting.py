# SPDX-License-Identifier: MIT
"""A machine that is kept while somebody looks at it: from this terminal, or from others."""

from __future__ import annotations

import select
import sys
import threading
from typing import Literal

from harness.errors import HarnessError
from harness.tui.serve import Served
from harness.tui.source import LabSource

LIMIT = 3600.0
"""Seconds that a machine is kept where there is no terminal to ask at."""
Decision = Literal["go on", "end"]
POLL = 0.5


def for_test(source: LabSource, name: str) -> Decision:
    """Keep a failed test's machine, say how to attach, and wait for what to do. Raises KeyboardInterrupt."""
    released = threading.Event()
    decisions: list[Decision] = []

    def release(decision: str) -> None:
        decisions.append("end" if decision == "end" else "go on")
        released.set()

    source.released = release
    with Served(source, name, waits=True):
        _say(f"\npaused: the machine of this test is kept, stopped where the test failed\n\n{_how(source)}\n")
        terminal = sys.stdin is not None and sys.stdin.isatty() and sys.stdout.isatty()
        if not terminal:
            _say(
                "no terminal here: the tests go on when you type Ctrl-] g in an attached console, and end at"
                f" Ctrl-] e; `mkh console --attach {name} --go-on` and `--end` do that, too.\n"
                f"Without a word they go on in {LIMIT / 60:.0f} minutes."
            )
            if not released.wait(LIMIT):
                _say("nobody came: the tests go on")
            return decisions[0] if decisions else "go on"
        while not decisions:
            choice = _asked(
                released, "o: consoles here, c: let it run or stop it, g: go on, e: end the tests > "
            )
            if choice == "o":
                _open(source)
            elif choice == "c":
                _say(_answer(source))
            elif choice in {"g", "e"}:
                release("end" if choice == "e" else "go on")
        return decisions[0]


def detached(source: LabSource) -> bool:
    """Keep a machine of `mkh console` that was detached from; say whether its view is wanted again."""
    _say(f"detached: {source.title} goes on while this command runs\n\n{_how(source)}\n")
    return _asked(threading.Event(), "Enter: the consoles again, q: end the machine > ") != "q"


def _how(source: LabSource) -> str:
    try:
        return source.ask("attach")
    except HarnessError as error:
        return f"another console   mkh console --attach {source.name}\n(no debugger: {error.what})"


def _answer(source: LabSource) -> str:
    try:
        return f"the machine is {source.ask('toggle')}"
    except HarnessError as error:
        return str(error)


def _open(source: LabSource) -> None:
    from harness.tui.terminal import Terminal
    from harness.tui.view import View

    with Terminal() as terminal:
        outcome = View(source, terminal, own=False, waits=True).run()
    if outcome in {"go on", "end"}:
        assert source.released is not None
        source.released(outcome)


def _asked(released: threading.Event, question: str) -> str:
    """Ask for a letter; the end of input is ``q``, and nothing where somebody else released the machine."""
    sys.stderr.write(question)
    sys.stderr.flush()
    while not released.is_set():
        if select.select([sys.stdin], [], [], POLL)[0]:
            line = sys.stdin.readline()
            return line.strip().lower()[:1] if line else "q"
    _say("")
    return ""


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
