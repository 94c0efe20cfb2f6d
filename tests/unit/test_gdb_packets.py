# SPDX-License-Identifier: MIT
"""Packets to and from a gdbstub that is a pipe here."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.vm.gdbpackets import GdbError, Packets, expand, packet


class Stub:
    """The other side."""

    def __init__(self) -> None:
        self.source, self.tell = os.pipe()
        self.heard, self.sink = os.pipe()
        self.packets = Packets(self.source, self.sink)

    def says(self, data: bytes) -> None:
        os.write(self.tell, data)

    def hears(self) -> bytes:
        return os.read(self.heard, 4096)

    def close(self) -> None:
        for end in (self.source, self.sink, self.heard):
            os.close(end)
        if self.tell >= 0:
            os.close(self.tell)


@pytest.fixture
def stub() -> Iterator[Stub]:
    made = Stub()
    yield made
    made.close()


def test_asked_and_answered(stub: Stub) -> None:
    stub.says(b"+$OK#9a")
    assert stub.packets.ask("Hg01", 1) == "OK"
    assert stub.hears() == b"$Hg01#10+"


def test_a_damaged_answer_is_asked_for_again(stub: Stub) -> None:
    stub.says(b"+$OJ#9a$OK#9a")
    assert stub.packets.ask("?", 1) == "OK"
    assert stub.hears() == b"$?#3f-+"


def test_three_damaged_answers(stub: Stub) -> None:
    stub.says(b"+$OJ#9a$OJ#9a$OJ#9a")
    with pytest.raises(GdbError, match="damaged"):
        stub.packets.ask("?", 1)


def test_silence_and_an_end(stub: Stub) -> None:
    stub.says(b"+$O")
    with pytest.raises(GdbError, match=r"did not answer '\?' in time"):
        stub.packets.ask("?", 0.05)
    os.close(stub.tell)
    stub.tell = -1
    with pytest.raises(GdbError, match="is gone"):
        stub.packets.receive(1)


def test_run_lengths() -> None:
    assert expand(b"0* ") == b"0000"
    assert expand(b"ab") == b"ab"


def test_bytes_that_need_escapes_are_refused() -> None:
    with pytest.raises(ValueError, match="unescaped"):
        packet(b"M0,1:}")


@given(st.lists(st.integers(1, 30), max_size=8))
def test_an_answer_in_pieces(sizes: list[int]) -> None:
    stub = Stub()
    data = b"+" + packet(b"T05thread:02;watch:ffff8880;")
    for size in sizes:
        stub.says(data[:size])
        data = data[size:]
        if data:
            with pytest.raises(GdbError, match="in time"):
                stub.packets.receive(0)
        else:
            break
    if data:
        stub.says(data)
    assert stub.packets.receive(1) == "T05thread:02;watch:ffff8880;"
    stub.close()
