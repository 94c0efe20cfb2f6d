# SPDX-License-Identifier: MIT
"""The keys of the view, as it tells them; docs/console.md has them, too."""

from __future__ import annotations

KEYS_LONG = (
    " 1-9 Tab kernel  z zoom  s back  / search  m monitor  p map  v vCPUs  a attach  c stop/run"
    "  ? keys  d detach  q quit"
)
KEYS_SHORT = " 1-9 Tab  z zoom  s back  / find  m monitor  p map  v vCPUs  ? all keys"
KEYS_WAITING = "  g go on  e end"
HELP = """\
Whatever is typed goes to the chosen kernel, but for what follows {prefix}.

  {prefix} 1 .. 9    choose a kernel; Tab, n, arrows: the next; N: the one before
  {prefix} z         the chosen kernel alone, and back
  {prefix} s         look back: arrows, Page Up/Down, Home, End; q: live again
  {prefix} /         search what was printed, backwards; n: older, N: newer
  {prefix} m         a line for QEMU's monitor; Escape: back
  {prefix} p         whose memory is what: claimed, mapped, written
  {prefix} v         which kernel each vCPU runs, where, whether it moves
  {prefix} a         how to attach another console, gdb or drgn
  {prefix} c         stop the machine, or let it run
  {prefix} l         draw everything anew
  {prefix} {prefix}    {prefix} itself, for the kernel
  {prefix} d         detach: leave the view; the machine stays
  {prefix} q         quit; `mkh console`'s machine ends with it

Where a failed test waits: {prefix} g goes on with the tests, {prefix} e ends them.
"""
