# SPDX-License-Identifier: MIT
"""What Linux kernels print when something is wrong: one row for each kind of splat.

The formats are those of printk in Linux 6.1 to 7.x on x86-64. The first row that matches a line
names its kind, so what is special stands before what is general.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import IntEnum


class Severity(IntEnum):
    """NOTE: worth a line in a report, ends no wait. REPORT: a bug, or a sign of one; the kernel
    goes on. FATAL: the kernel, or the task that it happened to, cannot go on."""

    NOTE = 1
    REPORT = 2
    FATAL = 3


class End(IntEnum):
    """How a splat ends: with its first line, when nothing follows that belongs to it, or with a mark."""

    LINE = -1
    SILENCE = 0
    TRACE = 1
    RULE = 2
    PANIC = 3


MARKS = {
    End.TRACE: re.compile(r"---\[ end trace "),
    # UBSAN ended with a rule until 6.x, with an end trace since.
    End.RULE: re.compile(r"^={20,}$|---\[ end trace "),
    End.PANIC: re.compile(r"---\[ end Kernel panic"),
}


@dataclass(frozen=True)
class Row:
    """One kind of splat.

    ``title`` may name the pattern's groups. ``where`` adds the function that it happened in: the
    group ``function``, or else what registers and call trace say.
    """

    kind: str
    pattern: re.Pattern[str]
    severity: Severity
    end: End
    title: str
    where: bool


def _row(
    kind: str, pattern: str, severity: Severity, title: str, end: End = End.SILENCE, *, where: bool = True
) -> Row:
    return Row(kind, re.compile(pattern), severity, end, title, where)


_N, _R, _F = Severity.NOTE, Severity.REPORT, Severity.FATAL
_AT = r"(?P<function>[\w.]+)\+0x"
_LOCKDEP = (
    "possible circular locking|possible recursive locking|possible irq lock inversion|inconsistent lock state"
    "|bad unlock balance|bad contention|held lock freed|lock held when returning to user space"
    "|[A-Z-]+-safe -> [A-Z-]+-unsafe lock order|Nested lock was not taken|trying to register non-static key"
)

TABLE: tuple[Row, ...] = (
    # The kernel gives up.
    _row(
        "panic",
        r"Kernel panic - not syncing(?:: (?P<what>.*))?",
        _F,
        "Kernel panic: {what}",
        End.PANIC,
        where=False,
    ),
    _row("early-exception", r"PANIC: early exception", _F, "early exception"),
    _row("corrupted-stack", r"corrupted stack end detected", _F, "corrupted stack", End.LINE, where=False),
    _row("no-init", r"No working init found", _F, "no working init found", End.LINE, where=False),
    _row(
        "no-root",
        r"VFS: (?:Unable to mount|Cannot open) root",
        _F,
        "no root file system",
        End.LINE,
        where=False,
    ),
    # Exceptions in the kernel.
    _row("double-fault", r"PANIC: double fault|double fault: [0-9a-f]{4} \[#", _F, "double fault", End.TRACE),
    _row("stack-overflow", r"BUG: (?:\w+ )?stack guard page was hit", _F, "stack overflow", End.TRACE),
    _row(
        "null-dereference",
        r"(?:BUG: kernel|[Uu]nable to handle kernel) NULL pointer dereference",
        _F,
        "NULL pointer dereference",
        End.TRACE,
    ),
    _row("page-fault", r"BUG: unable to handle|Unable to handle kernel", _F, "page fault", End.TRACE),
    _row("bug-at", r"kernel BUG at ", _F, "kernel BUG", End.TRACE),
    _row("usercopy", r"usercopy: Kernel memory (?P<what>\w+) attempt", _F, "usercopy: {what}", End.TRACE),
    _row("cfi", r"(?:CFI failure at|Missing ENDBR:) (?P<function>[\w.]+)", _F, "CFI failure", End.TRACE),
    # "Oops: " stands before every kind since 6.11, and before page faults only until then.
    _row(
        "oops",
        r"(?:Oops: )*(?P<what>[A-Za-z][\w -]*?)(?:[:,][^\[]*)?: [0-9a-f]{4} \[#\d+\]",
        _F,
        "{what}",
        End.TRACE,
    ),
    _row("oops", r"Oops - [\w ]+: |Internal error: Oops", _F, "Oops", End.TRACE),
    # Sanitizers.
    _row("kasan", rf"BUG: KASAN: (?P<what>[\w-]+)(?: in {_AT})?", _R, "KASAN: {what}", End.RULE),
    _row("kfence", rf"BUG: KFENCE: (?P<what>[\w -]+?)(?: in {_AT}|[:(]|$)", _R, "KFENCE: {what}", End.RULE),
    _row("kmsan", rf"BUG: KMSAN: (?P<what>[\w-]+)(?: in {_AT})?", _R, "KMSAN: {what}", End.RULE),
    _row(
        "kcsan", r"BUG: KCSAN: (?P<what>[\w-]+)(?: in (?P<function>[\w.]+))?", _R, "KCSAN: {what}", End.RULE
    ),
    _row("ubsan", r"UBSAN: (?P<what>[\w-]+) in ", _R, "UBSAN: {what}", End.RULE),
    _row("slub", r"\bBUG (?P<what>[\w-]+) \(.*\): ", _R, "slab corruption in cache {what}", where=False),
    _row(
        "memory-leak",
        r"kmemleak: \d+ new suspected memory leak",
        _R,
        "kmemleak: suspected leaks",
        End.LINE,
        where=False,
    ),
    # Locks, contexts, RCU.
    _row("lockdep", r"\[ BUG: (?P<what>[\w -]+?)[!.]? \]", _R, "{what}"),
    _row("lockdep", rf"(?:WARNING|INFO): (?P<what>{_LOCKDEP})", _R, "{what}"),
    _row("lockdep", r"WARNING: .* still has locks held", _R, "still has locks held"),
    _row("lockdep", r"BUG: (?P<what>MAX_[A-Z_]+ too low)", _R, "{what}", where=False),
    _row("rcu-usage", r"(?:WARNING|INFO): suspicious RCU usage", _R, "suspicious RCU usage"),
    _row("atomic", r"BUG: scheduling while atomic", _R, "scheduling while atomic"),
    _row(
        "atomic", r"BUG: sleeping function called from", _R, "sleeping function called from invalid context"
    ),
    _row("preemptible", r"BUG: using (?P<what>\w+)\(\) in preemptible", _R, "{what} in preemptible code"),
    _row("spinlock", r"BUG: spinlock (?P<what>[a-z ]+?)(?: on CPU|,|$)", _R, "spinlock {what}"),
    # What takes too long.
    _row("rcu-stall", r"INFO: rcu\w* (?:self-)?detected (?:\w+ )?stall", _R, "RCU stall"),
    _row("soft-lockup", r"BUG: soft lockup - CPU", _R, "soft lockup"),
    _row("hard-lockup", r"Watchdog detected hard LOCKUP", _R, "hard lockup"),
    _row("workqueue-lockup", r"BUG: workqueue lockup", _R, "workqueue lockup", where=False),
    _row("hung-task", r"INFO: task .+ blocked .*for more than \d+ seconds", _R, "hung task"),
    # Checks of the kernel's own data.
    _row("list", r"(?P<what>list_(?:add|del)) (?:corruption|double add)", _R, "{what} corruption", End.TRACE),
    _row("refcount", r"refcount_t: (?P<what>[^.;]+)", _R, "refcount_t: {what}", End.TRACE),
    _row("fortify", r"detected (?:field-spanning|buffer overflow)", _R, "write beyond a field", End.TRACE),
    _row("bad-page", r"BUG: Bad (?P<what>page \w+|[a-z-]+)", _R, "bad {what}"),
    _row(
        "stack-trace",
        r"WARNING: (?:kernel stack |stack recursion|can't dereference)",
        _R,
        "stack cannot be unwound",
    ),
    _row("warning", rf"WARNING: CPU: \d+ PID: \d+ at \S+(?: {_AT})?", _R, "WARNING", End.TRACE),
    # Since 6.18 the place comes first, the CPU behind.
    _row("warning", rf"WARNING: \S+:\d+ at {_AT}", _R, "WARNING", End.TRACE),
    _row("bug", r"\bBUG: (?P<what>.+)", _R, "BUG: {what}", where=False),
    # Hardware.
    _row("msr", rf"unchecked MSR access error: (?P<what>\w+)(?:.*\({_AT})?", _R, "unchecked {what}"),
    _row("irq", r"irq (?P<what>\d+): nobody cared", _R, "irq {what}: nobody cared", where=False),
    _row("apic", r"APIC error on CPU", _R, "APIC error", End.LINE, where=False),
    _row("mce", r"Machine Check Exception: |Machine Check: \d", _F, "machine check", where=False),
    _row("mce", r"Machine check events logged", _N, "machine check events logged", End.LINE, where=False),
    _row("out-of-memory", r"Out of memory(?: \([^)]*\))?: Kill", _N, "out of memory", End.LINE, where=False),
    _row(
        "unknown-nmi",
        r"NMI received for unknown reason",
        _N,
        "NMI for an unknown reason",
        End.LINE,
        where=False,
    ),
    _row("stray-irq", r"No irq handler for vector", _N, "no irq handler for vector", End.LINE, where=False),
)

STALLS = frozenset({"rcu-stall", "soft-lockup", "hard-lockup", "workqueue-lockup", "hung-task"})
"""Kinds that an overloaded computer can cause all by itself."""

WORDS = re.compile(
    rb"BUG|PANIC|Kernel panic|WARNING: |INFO: |[Uu]nable to |Oops|: [0-9a-f]{4} \[#|hard LOCKUP|UBSAN: "
    rb"|list_add|list_del|refcount_t: |detected field|detected buffer|usercopy: |CFI fail|Missing END"
    rb"|unchecked MSR|nobody cared|APIC error|achine [Cc]heck|No working|VFS: |memory leak|Out of memory"
    rb"|unknown reason|No irq handler|corrupted stack end"
)
"""Without one of these a line matches no row: so floods can be passed over quickly."""


def find_row(text: str) -> tuple[Row, re.Match[str]] | None:
    """Return the row that a line begins a splat of, and its match."""
    if "---[ end " in text:
        return None
    for row in TABLE:
        match = row.pattern.search(text)
        if match is not None:
            return row, match
    return None
