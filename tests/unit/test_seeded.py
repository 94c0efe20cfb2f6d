# SPDX-License-Identifier: MIT
"""Seeded faults: what a patch tells of itself, and that those shipped fit the reference series."""

from collections import Counter
from pathlib import Path

import pytest

from harness import seeded
from harness.build import series as patches
from harness.errors import UsageError
from harness.selfcheck import AREAS

DIFF = "--- a/init/main.c\n+++ b/init/main.c\n@@ -1,1 +1,1 @@\n-a\n+b\n"
FIELDS = """\
# SPDX-License-Identifier: GPL-2.0-only
# Breaks: a size is
#   one too large
# Area: memory, loading
# Proof: look at it:
#   # Area: is no field here
# Clue: size, 0x
"""
FAULTS = seeded.find()


def fault(folder: Path, text: str) -> seeded.Fault:
    file = folder / "memory-size.patch"
    file.write_text(text)
    return seeded.read(file)


def test_fields_go_on_in_further_lines(tmp_path: Path) -> None:
    found = fault(tmp_path, FIELDS + DIFF)
    assert found.name == "memory-size"
    assert found.breaks == "a size is one too large"
    assert found.areas == ("memory", "loading")
    assert found.clues == ("size", "0x")


def test_fields_of_a_mail_stand_in_its_message(tmp_path: Path) -> None:
    mail = f"From: A <a@b.c>\nSubject: [PATCH] seed\n\nBreaks: all\n  of it\n\nArea: faults\n---\n{DIFF}"
    found = fault(tmp_path, mail)
    assert (found.breaks, found.areas) == ("all of it", ("faults",))


def test_nothing_is_known_of_a_bare_patch(tmp_path: Path) -> None:
    found = fault(tmp_path, DIFF + "Area: memory\n")
    assert (found.breaks, found.areas, found.points_at("anything")) == ("", (), None)


def test_a_text_points_at_the_cause_by_one_clue(tmp_path: Path) -> None:
    found = fault(tmp_path, FIELDS + DIFF)
    assert found.points_at("the SIZE is wrong")
    assert not found.points_at("it broke")


def test_a_name_that_no_fault_has_is_told(tmp_path: Path) -> None:
    fault(tmp_path, DIFF)
    with pytest.raises(UsageError, match=r"no fault .* is called loading-"):
        seeded.find(tmp_path, "loading-*")
    with pytest.raises(UsageError, match="no folder"):
        seeded.find(tmp_path / "nothing")


def test_a_fault_goes_behind_the_series(tmp_path: Path) -> None:
    added = seeded.on_top(FAULTS[0], paths_reference(), tmp_path / "out")
    before, after = patches.read(paths_reference()), patches.read(added)
    assert [patch.name for patch in after.patches[:-1]] == [patch.name for patch in before.patches]
    assert after.patches[-1].name == f"{FAULTS[0].name}.patch"


def paths_reference() -> Path:
    return seeded.paths.KERNELS / "reference"


def test_at_least_five_faults_in_each_area() -> None:
    count = Counter(found.areas[0] for found in FAULTS)
    assert len(FAULTS) >= 60
    assert {area: count[area] for area in AREAS if count[area] < 5} == {}


@pytest.mark.parametrize("found", FAULTS, ids=lambda found: found.name)
def test_a_shipped_fault_tells_all(found: seeded.Fault) -> None:
    assert found.breaks
    assert found.proof
    assert found.clues
    assert found.name.startswith(f"{found.areas[0]}-")
    assert set(found.areas) <= set(AREAS)
    assert found.file.read_text().startswith("# SPDX-License-Identifier: GPL-2.0-only\n")
