# SPDX-License-Identifier: MIT
"""The seeded faults fit the series, and the suite catches a fixed dozen by the claims that did so before.

The whole set is `make selfcheck`.
"""

from pathlib import Path

import pytest

from harness import seeded
from harness.build import applied_series
from harness.definition import load_definition
from harness.progress import Progress

FAULTS = seeded.find()


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
def test_applies_on_top_of_the_reference(fault: seeded.Fault, tmp_path: Path) -> None:
    reference = load_definition("reference")
    assert reference.series is not None
    series = seeded.on_top(fault, Path(reference.series), tmp_path / "series")
    applied = applied_series(reference, Progress(Progress.quiet_console()), series=series)
    assert not applied.failed, applied.report[-1]
    assert applied.report[-1].patch == f"{fault.name}.patch"
    assert not applied.report[-1].unclean
