# SPDX-License-Identifier: MIT
"""Figures of messages: percentiles, ratios and histograms of what was measured."""

import io

import msgspec
import numpy as np
from rich.console import Console

from harness.bench_messages import result, shown

TRIPS = {
    (8, "message"): np.array([100.0, 200.0, 300.0, 400.0, 90000.0]),
    (8, "call"): np.array([10.0, 20.0, 30.0]),
    (8, "pipe"): np.array([600.0]),
}
WAYS = {(8, "message"): [1000.0, 3000.0, 2000.0], (8, "pipe"): [4000.0]}


def test_ratios_are_of_medians():
    found = result("tcg", 1, TRIPS, WAYS, {8: 7})
    (trip,), (way,) = found.round_trip, found.one_way
    assert (trip.message.p50_ns, trip.message.max_ns) == (300.0, 90000.0)
    assert (trip.vs_call, trip.vs_pipe) == (15.0, 0.5)
    assert (way.messages_per_s, way.bytes_per_s, way.vs_pipe, way.lost) == (2000.0, 16000.0, 0.5, 7)


def test_each_time_is_in_the_histogram_once():
    found = result("tcg", 1, TRIPS, WAYS, {8: 0})
    (trip,) = found.round_trip
    for spread, times in ((trip.message, 5), (trip.call, 3), (trip.pipe, 1)):
        assert sum(spread.histogram) == spread.count == times
        assert len(found.edges_ns) == len(spread.histogram) + 1


def test_people_and_programs_can_read_it():
    found = result("tcg", 3, TRIPS, WAYS, {8: 0})
    assert msgspec.json.decode(msgspec.json.encode(found))["round_trip"][0]["vs_call"] == 15.0
    text = io.StringIO()
    Console(file=text, width=150).print(shown(found))
    assert "15.00" in text.getvalue()
    assert "TCG" in text.getvalue()
