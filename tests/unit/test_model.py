# SPDX-License-Identifier: MIT
"""Arithmetic on memory regions: everything the partition claims rest on."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.model import Region, common, merged, without

REGIONS = st.lists(st.builds(Region, st.integers(0, 60), st.integers(1, 20)), max_size=6)


def bytes_of(regions):
    return {address for region in regions for address in range(region.start, region.end)}


@given(REGIONS)
def test_merged_keeps_every_byte_and_leaves_gaps_between(regions):
    joined = merged(regions)
    assert bytes_of(joined) == bytes_of(regions)
    assert all(a.end < b.start for a, b in pairwise(joined))


@given(REGIONS, REGIONS)
def test_without_removes_exactly_the_holes(regions, holes):
    assert bytes_of(without(regions, holes)) == bytes_of(regions) - bytes_of(holes)


@given(REGIONS, REGIONS)
def test_common_is_what_both_have(some, others):
    assert bytes_of(common(some, others)) == bytes_of(some) & bytes_of(others)


@given(REGIONS, REGIONS)
def test_overlap_agrees_with_bytes(some, others):
    for a in some:
        for b in others:
            assert a.overlaps(b) == bool(bytes_of([a]) & bytes_of([b]))


def test_a_region_prints_as_iomem_does():
    assert str(Region.from_bounds(0x1000, 0x9FBFF)) == "0x1000-0x9fbff"


@pytest.mark.parametrize(("start", "size"), [(-1, 1), (0, 0), (0, -1)])
def test_an_impossible_region_is_refused(start, size):
    with pytest.raises(ValueError, match="a region needs"):
        Region(start, size)
