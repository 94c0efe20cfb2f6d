# SPDX-License-Identifier: MIT
"""A vCPU's stack in words: by ORC where the kernel's tables know a frame, else by what looks like one."""

from __future__ import annotations

from dataclasses import dataclass, replace

from harness.diagnose.images import KERNEL, MODULES_END, Image
from harness.diagnose.modules import in_module
from harness.diagnose.orc import OUTERMOST, Step
from harness.diagnose.space import Space
from harness.vm.registers import Registers

FRAMES = 20
"""How deep a stack is followed."""
SCANNED = 512
"""Words of a stack that are searched for the next frame where no table knows it."""
_STACK = 16 << 10


@dataclass(frozen=True)
class Frame:
    """One frame: an address, and the place ``inside`` a ``function`` of ``size`` that it is.

    ``function`` is empty where none is known. ``returns``: it is where a call returns to, and not where
    a vCPU is. ``guessed``: it may be left over from an earlier call.
    """

    address: int
    function: str = ""
    inside: int = 0
    size: int = 0
    module: str = ""
    returns: bool = False
    guessed: bool = False
    interrupted: bool = False

    @property
    def name(self) -> str:
        """Function and module, or the address."""
        if not self.function and not self.module:
            return f"{self.address:#x}"
        return f"{self.function or '?'} [{self.module}]" if self.module else self.function

    def __str__(self) -> str:
        place = f"+{self.inside:#x}" if self.function else ""
        name = f"{self.function}{place} [{self.module}]" if self.module else f"{self.name}{place}"
        notes = [" (interrupted here)"] if self.interrupted else []
        return "".join([name, *notes, *([" (guessed)"] if self.guessed else [])])


def frame_of(image: Image | None, space: Space, address: int, *, returns: bool = False) -> Frame:
    """Return what is at an address of a kernel's.

    With ``returns`` it is where a call returns to, which may be behind the function that called.
    """
    if image is None or image.symbols is None or not KERNEL <= address < MODULES_END:
        return Frame(address, returns=returns)
    at = address - image.offset - returns
    found = image.symbols.function(at)
    if found is not None:
        return Frame(address, found[0], found[1] + returns, found[2], returns=returns)
    start, end = image.text
    if start <= address < end:
        # Code written in assembler is no function to the linker.
        name, _, inside = image.symbols.name(at).partition("+")
        return Frame(address, name, int(inside or "0", 16) + returns, returns=returns)
    known = in_module(image, space, address - returns)
    if known is None:
        return Frame(address, returns=returns)
    module, function, inside_it, size = known
    return Frame(address, function, inside_it + returns, size, module, returns)


def stack_of(image: Image | None, space: Space, registers: Registers) -> tuple[Frame, ...]:
    """Return the frames of a vCPU in kernel code, the innermost first."""
    now = Step(registers["RIP"], registers["RSP"], registers.values.get("RBP", 0), interrupted=True)
    frames = [frame_of(image, space, now.ip)]
    if image is None or image.symbols is None or registers.segments["CS"].selector & 3:
        return tuple(frames)
    top = (now.sp | (_STACK - 1)) + 1
    while len(frames) < FRAMES:
        known = image.orc is not None and image.text[0] <= now.ip < image.text[1]
        moved = image.orc if known else None
        placed = Step(now.ip - image.offset, now.sp, now.bp, now.interrupted)
        found = moved.step(placed, registers.values, space.word) if moved is not None else None
        guessed = found is None
        if found is None:
            found = _scan(image, space, now.sp, top)
        if found is None or found.ip == OUTERMOST or found.ip < KERNEL:
            break
        frame = frame_of(image, space, found.ip, returns=not found.interrupted)
        frames.append(replace(frame, guessed=guessed, interrupted=found.interrupted))
        if found.sp <= now.sp and not guessed:
            # An interrupt's stack is left for the task's.
            top = (found.sp | (_STACK - 1)) + 1
        now = found
    return tuple(frames)


def _scan(image: Image, space: Space, sp: int, top: int) -> Step | None:
    for at in range(sp & -8, min(top, sp + 8 * SCANNED), 8):
        word = space.word(at)
        if word is None:
            return None
        if KERNEL <= word < MODULES_END and _after_call(space, word):
            return Step(word, at + 8, 0)
    return None


def _after_call(space: Space, address: int) -> bool:
    """Say whether a call instruction ends where a return to ``address`` would go."""
    code = space.read(address - 6, 6)
    if code is None:
        return False
    return (
        code[1] == 0xE8
        or (code[4] == 0xFF and code[5] >> 3 & 7 == 2)
        or (code[0] == 0xFF and code[1] >> 3 & 7 == 2)
    )
