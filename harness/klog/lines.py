# SPDX-License-Identifier: MIT
"""One printed line: what printk put before it, and what it can be in a splat."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

STRIP = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|[\x00-\x08\x0b-\x1f\x7f-\x9f]")
_PREFIX = re.compile(r"\[ *(\d+\.\d+)\](?: ?\[ *([TC]\d+)[^\]]*\])? ?")
"""Time, and the caller where CONFIG_PRINTK_CALLER is set; it may stand behind a shell's prompt."""

_BODY = re.compile(
    r"\+0x[0-9a-f]+/0x[0-9a-f]+|^ *\??:? *(?:\[<)?(?:0x)?[0-9a-f]{16}\b|^[ >]*[0-9a-f]{8,16}: "
    r"|^ ?(?:</?\w+>|[A-Z][A-Z0-9_]{1,4}: |CPU: |Call Trace|Code: |RIP: |Modules linked in|Hardware name: )"
    r"|^ *(?:Tainted: |Not tainted|Workqueue: |#PF: |PGD |Oops: |note: |rcu: |\t|task:|handlers:)"
    r"|^Kernel Offset:"
    r"|^ *(?:Sending NMI|NMI backtrace|irq event stamp|(?:hard|soft)irqs last |Preemption disabled|lock\()"
    r"|^(?:The buggy|Allocated by|Freed by|Memory state|page: |page:|flags: |raw: |head: |Showing all locks)"
    r"|^(?:stack backtrace:|-> #\d|other info|\d+ locks? held by|in_atomic\(\)| #\d+: |\s*\*\*\* DEADLOCK)"
    r"|\[Hardware Error\]|^---\[ end |^\(t=\d+ jiffies|disables this message|^Disabling IRQ|^#\d"
)

CUT = "[ cut here ]"
RULE = re.compile(r"^={20,}$")

_FUNCTION = re.compile(r"^\s*(?:\[<[0-9a-f]+>\] )?(\? )?([A-Za-z_][\w.]*)\+0x[0-9a-f]+/0x[0-9a-f]+")
_RIP = re.compile(r"(?:RIP: 0010:|\bpc : )([A-Za-z_][\w.]*)\+0x")
_SUFFIX = re.compile(r"\.(?:isra|constprop|part|cold|llvm)\b.*")
_REPORTERS = re.compile(
    r"_*(?:dump_stack|show_stack|show_regs|show_trace|dump_trace|sched_show_task|might_resched|might_sleep"
    r"|might_fault|schedule|preempt_schedule|print_|report_|warn|bug_|die|oops|panic|asm_|exc_|handle_bug|handle_"
    r"exception|kasan_|asan_|kfence_|kmsan_|kcsan_|tsan_|ubsan_|check_|refcount_|list_(?:add|del)_(?:entry_)?valid"
    r"|lockdep_|lock_(?:acquire|release)|lock_is_held|raw_spin_|raw_(?:read|write)_|mutex_lock|down_(?:read|write)"
    r"|validate_chain|mark_lock|debug_|do_raw_spin|spin_(?:dump|bug)|delay|const_udelay|udelay|rcu_|do_trap"
    r"|do_error_trap|do_invalid_op|fixup_exception|page_fault|kernelmode_fixup|no_context|bad_area|fortify_panic"
    r"|usercopy_abort|native_(?:read|write)_msr|ex_handler|watchdog|perf_|nmi|default_do_nmi|irq_|sysvec_|apic_timer"
    r"|hrtimer_|update_process_times|tick_|do_user_addr_fault|preempt_count|stack_trace|orc_|unwind|wait_for_completion"
    r"|mem(?:cpy|set|move|cmp)|str[a-z]+)"
)
"""Functions that report, check or wait for others: never the ones that a splat is about."""

_OFFSET = re.compile(r"\+0x[0-9a-f]+(?:/0x[0-9a-f]+)?")
_ADDRESS = re.compile(r"\b0x[0-9a-f]+\b|\b[0-9a-f]{8}(?:[0-9a-f]{8})?\b")


@dataclass(frozen=True)
class LogLine:
    """One line: ``text`` is safe to show, ``body`` is what the kernel printed after its prefix.

    ``time`` is the kernel's own, ``caller`` the task or CPU where the kernel says it.
    """

    index: int
    text: str
    body: str
    time: float | None
    caller: str

    @property
    def in_splat(self) -> bool:
        """Whether it looks like a line from inside a splat."""
        return _BODY.search(self.body) is not None


def read_line(index: int, raw: bytes) -> LogLine:
    """Read one printed line, whatever bytes it holds."""
    text = STRIP.sub("", raw.decode("utf-8", "replace")).rstrip()
    prefix = _PREFIX.search(text)
    if prefix is None:
        return LogLine(index, text, text, None, "")
    return LogLine(index, text, text[prefix.end() :], float(prefix[1]), prefix[2] or "")


def stable(title: str) -> str:
    """Return ``title`` without offsets, addresses and doubled blanks, so that runs can be compared."""
    return " ".join(_ADDRESS.sub("ADDR", _OFFSET.sub("", title)).split()).rstrip(" .!:")


def find_function(named: str | None, lines: Iterable[str]) -> str:
    """Return the function that a splat happened in, or an empty string.

    It is the one ``named`` in the first line, or where the registers say the kernel was, or the
    first sure entry of the call trace, or the first unsure one: whichever does not only report.
    """
    first = [named] if named else []
    counters: list[str] = []
    sure: list[str] = []
    unsure: list[str] = []
    for line in lines:
        if line.startswith("stack backtrace:"):
            # Before it lockdep shows where locks were taken earlier.
            sure, unsure = [], []
        counters += _RIP.findall(line)
        found = _FUNCTION.match(line)
        if found is not None:
            (unsure if found[1] else sure).append(found[2])
    for name in (*first, *counters[:1], *sure, *unsure):
        plain = _SUFFIX.sub("", name)
        if not _REPORTERS.match(plain):
            return plain
    return ""
