# SPDX-License-Identifier: MIT
"""Reading the list of images as the generations print it, and comparing a host with what it was."""

import pytest

from harness.errors import HarnessError
from harness.multikernel.census import Census
from harness.multikernel.kimage import Image, parse_kimage

V1 = """Type         Start Address    Segments
----------   --------------   --------
default     0x00003ffff000         5
multikernel  0x000040000000         3
"""
V2 = """MK_ID  Type        Start Address   Segments
    0  default     0x00003ffff000         5
    1  multikernel  0x0000501fb0b0         4
"""


def test_rows_of_v1_have_no_id() -> None:
    assert parse_kimage(V1) == (
        Image(None, "default", 0x3FFFF000, 5),
        Image(None, "multikernel", 0x40000000, 3),
    )


def test_rows_since_v2_have_one() -> None:
    assert parse_kimage(V2)[1] == Image(1, "multikernel", 0x501FB0B0, 4)


def test_empty_list() -> None:
    assert parse_kimage(V2.splitlines()[0] + "\nNo kimages loaded\n") == ()


@pytest.mark.parametrize("text", ["a b c\n", V2 + "x y z\n", V2 + "7\n", V1 + "multikernel 0xzz 3\n"])
def test_another_format_is_an_error(text: str) -> None:
    with pytest.raises(HarnessError, match="this is no"):
        parse_kimage(text)


def test_what_was_lost_is_named() -> None:
    before = Census({"online": "0-3\n", "iomem": "a\nb\n"}, {})
    after = Census({"online": "0-3\n", "iomem": "b\nc\n"}, {})
    assert after.lost_since(before) == ["iomem: gone: a", "iomem: new: c"]
    assert before.lost_since(before) == []
