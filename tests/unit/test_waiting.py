# SPDX-License-Identifier: MIT
"""What a kernel with lockdep lists, as Linux 7.3 and earlier ones write it, without who asked."""

from __future__ import annotations

import pytest

from harness.diagnose.waiting import telling

READER = [" #0: ffff8880024fb0a0 (&tty->ldisc_sem){++++}-{0:0}, at: tty_ldisc_ref_wait+0x1c/0x43"]
ASKING = [
    " #0: ffff888000b15430 (sb_writers#3){.+.+}-{0:0}, at: vfs_write+0x6f/0x13f",
    " #1: ffffffff816ac1e0 (rcu_read_lock){....}-{1:3}, at: __handle_sysrq+0x2d/0x16b",
]


@pytest.mark.parametrize(
    "header",
    ["locks held by {}/102: 3, last CPU#0:", "3 locks held by {}/102:", "1 lock held by {}/102:"],
    ids=["7.3", "several", "one"],
)
def test_holders_are_named_and_not_who_asked(header: str) -> None:
    cat = [header.format("cat"), *READER]
    said = ["sysrq: Show Locks Held", "", "Showing all locks held in the system:"]
    said += [header.format("sh"), *ASKING, *cat, "", "====="]
    assert telling(said) == cat


def test_blocked_task_is_shown_whole() -> None:
    task = ["task:sh   state:D stack:0     pid:42", "Call Trace:", " <TASK>", " schedule+0x22/0x30"]
    assert telling(["sysrq: Show Blocked State", *task]) == task
