# SPDX-License-Identifier: MIT
"""The probe's verdicts, made up and real."""

from __future__ import annotations

import errno
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from harness.errors import HarnessError, UsageError
from harness.vm import accel
from harness.vm.accel import Verdict, choose, probe

KVM = Path("/dev/kvm")


def answer(monkeypatch: pytest.MonkeyPatch, count: Callable[[Path], str]) -> None:
    monkeypatch.setattr(accel, "_count", count)


@pytest.mark.parametrize(
    ("said", "verdict"),
    [
        ("rate 150000000.0", Verdict.GOOD),
        ("rate 1400000.0", Verdict.EMULATES),
        (f"open {errno.ENOENT}", Verdict.NO_DEVICE),
        (f"open {errno.ENODEV}", Verdict.NO_DEVICE),
        (f"open {errno.EACCES}", Verdict.NO_PERMISSION),
        (f"create {errno.EBUSY}", Verdict.NO_VM),
        ("run with exit reason 17", Verdict.EMULATES),
        ("", Verdict.EMULATES),
    ],
)
def test_verdicts(monkeypatch: pytest.MonkeyPatch, said: str, verdict: Verdict) -> None:
    answer(monkeypatch, lambda device: said)
    assert probe().verdict is verdict


def test_emulation_is_named_with_its_rate(monkeypatch: pytest.MonkeyPatch) -> None:
    answer(monkeypatch, lambda device: "rate 1400000.0")
    monkeypatch.setattr(accel, "_modules", lambda: "kvm_pvm")
    chosen = choose("auto")
    assert chosen.argument == "tcg,thread=multi"
    assert chosen.factor > 1
    assert "/dev/kvm (kvm_pvm) emulates only, 1.4 million instructions a second" in chosen.verdict


def test_a_kvm_that_never_returns_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    def hang(device: Path) -> str:
        time.sleep(60)
        return ""

    answer(monkeypatch, hang)
    monkeypatch.setattr(accel, "LIMIT", 0.1)
    started = time.monotonic()
    found = probe()
    assert found.verdict is Verdict.EMULATES
    assert "did not finish" in found.text
    assert time.monotonic() - started < 5


def test_a_kvm_that_kills_its_caller_kills_only_the_probe(monkeypatch: pytest.MonkeyPatch) -> None:
    def die(device: Path) -> str:
        os.kill(os.getpid(), signal.SIGKILL)
        return ""

    answer(monkeypatch, die)
    assert "killed the probe" in probe().text


def test_devices_that_are_none(tmp_path: Path) -> None:
    assert probe(tmp_path / "kvm").verdict is Verdict.NO_DEVICE
    assert probe(Path("/dev/null")).verdict is Verdict.NO_VM


def test_kvm_on_demand(monkeypatch: pytest.MonkeyPatch) -> None:
    answer(monkeypatch, lambda device: "rate 150000000.0")
    assert choose("kvm") == choose("auto")
    assert choose("kvm").argument == "kvm"
    answer(monkeypatch, lambda device: f"open {errno.EACCES}")
    with pytest.raises(HarnessError, match="no permission to open /dev/kvm"):
        choose("kvm")
    assert choose("tcg").verdict == "TCG, as told"
    with pytest.raises(UsageError, match="hvf"):
        choose("hvf")


@pytest.mark.skipif(not os.access(KVM, os.R_OK | os.W_OK), reason="no /dev/kvm to open")
def test_a_guest_really_counts_here() -> None:
    found = probe()
    assert found.verdict in {Verdict.GOOD, Verdict.EMULATES}
    assert found.rate > 0, found.text
    if Path("/sys/module/kvm_pvm").exists():
        assert found.verdict is Verdict.EMULATES
        assert "kvm_pvm" in found.text
