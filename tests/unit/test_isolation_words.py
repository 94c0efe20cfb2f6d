# SPDX-License-Identifier: MIT
"""What the words of the isolation report follow from, and how it is shown."""

from __future__ import annotations

import pytest

from harness.isolation import Cell, Property, Report, word
from harness.isolation.properties import ROWS
from harness.report.isolation import markdown


@pytest.mark.parametrize(
    ("through", "mapped", "ordinary", "expected"),
    [
        (False, None, False, "by hardware"),
        (False, True, False, "by hardware"),
        (True, False, False, "by page tables"),
        (True, True, False, "by convention"),
        (True, None, False, "by convention"),
        (True, False, True, "not at all"),
        (None, None, True, "not at all"),
        (None, False, False, "not tried"),
    ],
)
def test_word(*, through: bool | None, mapped: bool | None, ordinary: bool, expected: str) -> None:
    assert word(through, mapped=mapped, ordinary=ordinary) == expected


def test_every_row_is_somebodys() -> None:
    assert len({row.what for row in ROWS}) == len(ROWS) >= 20
    assert all(row.directions for row in ROWS)


def test_as_text() -> None:
    cell, untried = Cell("by convention", ("alpha: counted it", "it did")), Cell("not tried", ("no module",))
    rows = (
        Property("NMI", {"a -> b": cell}),
        Property("PIT", {"b -> a": untried}),
        Property("RTC", {"b -> a": untried}),
    )
    report = Report("mine", "0123", ("NMI from host: it stops",), rows)
    assert markdown(report).splitlines() == [
        "|  | a -> b | b -> a |",
        "|---|---|---|",
        "| NMI | by convention | - |",
        "| PIT | - | not tried |",
        "| RTC | - | not tried |",
        "",
        "- agreed: NMI from host: it stops",
        "- NMI, a -> b: by convention. alpha: counted it; it did",
        "- b -> a, not tried: PIT, RTC. no module",
    ]
