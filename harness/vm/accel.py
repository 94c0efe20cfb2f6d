# SPDX-License-Identifier: MIT
"""Whether KVM here runs a guest or only pretends to.

That ``/dev/kvm`` opens, or even that it creates a VM, proves nothing: there are software KVMs that
emulate an unmodified guest a hundred times slower than TCG translates it. So a real guest of four
instructions counts down, and the clock decides. It runs in a child process, so that a KVM that
never returns, or kills its caller, costs no more than a time limit.
"""

from __future__ import annotations

import errno
import fcntl
import mmap
import os
import select
import signal
import struct
import time
from contextlib import suppress
from ctypes import addressof, c_char
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from harness.errors import HarnessError, UsageError

CREATE_VM, GET_VCPU_MMAP_SIZE, CREATE_VCPU, RUN = 0xAE01, 0xAE04, 0xAE41, 0xAE80
SET_USER_MEMORY_REGION, SET_REGS = 0x4020AE46, 0x4090AE82
GET_SREGS, SET_SREGS = 0x8138AE83, 0x4138AE84
EXIT_HLT = 5

LOOPS, ROUNDS = 1000, 3
GOOD_RATE = 20e6
"""Instructions a second: hardware does over 100 million even nested, emulation 1.4 million."""
LIMIT = 1.0
"""Seconds that the probe may take before it is killed."""
CODE = 0x1000


class Verdict(Enum):
    """What the probe found."""

    NO_DEVICE = "no device"
    NO_PERMISSION = "no permission"
    NO_VM = "cannot create a VM"
    EMULATES = "emulates only"
    GOOD = "good"


@dataclass(frozen=True)
class Probe:
    """The probe's verdict, in words too; ``rate`` is instructions per second, 0 where none ran."""

    verdict: Verdict
    text: str
    rate: float = 0.0


@dataclass(frozen=True)
class Accel:
    """How QEMU is to run the guest, and why. Time-outs are multiplied by ``factor``."""

    name: str
    argument: str
    verdict: str
    factor: float


def choose(wanted: str = "auto", device: Path = Path("/dev/kvm")) -> Accel:
    """Choose the accelerator: ``kvm`` or ``tcg`` as told, ``auto`` for KVM where it is good.

    Raises HarnessError when KVM is demanded and not good, UsageError for another word.
    """
    if wanted not in {"auto", "kvm", "tcg"}:
        raise UsageError(f"there is no accelerator {wanted!r}", advice="choose auto, kvm or tcg")
    if wanted == "tcg":
        return Accel("tcg", "tcg,thread=multi", "TCG, as told", 5.0)
    found = probe(device)
    if found.verdict is Verdict.GOOD:
        return Accel("kvm", "kvm", f"KVM: {found.text}", 1.0)
    if wanted == "kvm":
        raise HarnessError(f"KVM cannot be used here: {found.text}", advice="use --accel auto or --accel tcg")
    return Accel("tcg", "tcg,thread=multi", f"TCG, since KVM cannot be used here: {found.text}", 5.0)


def instead_of(failed: Accel, why: str) -> Accel:
    """Return what goes on where ``failed`` did not, and why."""
    return Accel("tcg", "tcg,thread=multi", f"TCG, since {failed.name} failed: {why}", 5.0)


def probe(device: Path = Path("/dev/kvm")) -> Probe:
    """Find out in about 10 ms what ``device`` is good for. Never hangs, never raises."""
    read_end, write_end = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.write(write_end, _count(device).encode())
        finally:
            os._exit(0)
    os.close(write_end)
    try:
        ready, _, _ = select.select([read_end], [], [], LIMIT)
        answer = os.read(read_end, 4096).decode() if ready else "time-out"
    finally:
        os.close(read_end)
        with suppress(ProcessLookupError):
            os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    return _judge(answer, device)


def _judge(answer: str, device: Path) -> Probe:
    """Turn the child's answer, ``STEP VALUE``, into a verdict."""
    step, _, value = answer.partition(" ")
    if step == "rate":
        rate = float(value)
        speed = f"{rate / 1e6:.1f} million instructions a second"
        if rate >= GOOD_RATE:
            return Probe(Verdict.GOOD, f"good, {speed}", rate)
        return Probe(Verdict.EMULATES, f"{device} ({_modules()}) emulates only, {speed}", rate)
    if step == "open":
        reason = os.strerror(int(value))
        if int(value) in {errno.EACCES, errno.EPERM}:
            return Probe(Verdict.NO_PERMISSION, f"no permission to open {device} ({reason})")
        return Probe(Verdict.NO_DEVICE, f"no device {device} ({reason})")
    if step == "create":
        return Probe(Verdict.NO_VM, f"{device} ({_modules()}) cannot create a VM: {os.strerror(int(value))}")
    how = {"run": f"failed to run ({value})", "time-out": f"did not finish in {LIMIT:.0f} s"}
    what = how.get(step, "killed the probe")
    return Probe(Verdict.EMULATES, f"{device} ({_modules()}) emulates only: a guest that counts {what}")


def _modules() -> str:
    """Name the kernel modules behind KVM, or say that it is built in."""
    found = sorted(path.name for path in Path("/sys/module").glob("kvm_*"))
    return ", ".join(found) or "kvm"


def _count(device: Path) -> str:
    """Run the counting guest; return ``rate PER_SECOND``, or the step that failed and its errno."""
    try:
        kvm = os.open(device, os.O_RDWR | os.O_CLOEXEC)
    except OSError as error:
        return f"open {error.errno}"
    try:
        vm = fcntl.ioctl(kvm, CREATE_VM, 0)
        page = mmap.mmap(-1, 4096)
        # 16-bit code: mov $LOOPS, %ecx; 1: dec %ecx; jnz 1b; hlt
        page.write(b"\x66\xb9" + struct.pack("<I", LOOPS) + b"\x66\x49\x75\xfc\xf4")
        address = addressof(c_char.from_buffer(page))
        fcntl.ioctl(vm, SET_USER_MEMORY_REGION, struct.pack("<IIQQQ", 0, 0, CODE, 4096, address))
        vcpu = fcntl.ioctl(vm, CREATE_VCPU, 0)
        state = mmap.mmap(vcpu, fcntl.ioctl(kvm, GET_VCPU_MMAP_SIZE, 0))
        sregs = bytearray(312)
        fcntl.ioctl(vcpu, GET_SREGS, sregs)
        # The code segment's base and selector; the limit between them stays.
        sregs[0:8] = bytes(8)
        sregs[12:14] = bytes(2)
        fcntl.ioctl(vcpu, SET_SREGS, bytes(sregs))
    except OSError as error:
        return f"create {error.errno}"
    best = 0.0
    for _ in range(ROUNDS):
        try:
            # 16 general registers, rip, rflags.
            fcntl.ioctl(vcpu, SET_REGS, struct.pack("<16QQQ", *[0] * 16, CODE, 2))
            started = time.perf_counter()
            fcntl.ioctl(vcpu, RUN, 0)
            seconds = time.perf_counter() - started
        except OSError as error:
            return f"run {os.strerror(error.errno or 0)}"
        (reason,) = struct.unpack_from("<I", state, 8)
        if reason != EXIT_HLT:
            return f"run with exit reason {reason}"
        best = max(best, 2 * LOOPS / seconds)
    return f"rate {best}"
