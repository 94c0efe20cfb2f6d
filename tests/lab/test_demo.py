# SPDX-License-Identifier: MIT
"""`mkh demo`, as a person starts it: with a definition of one's own, somewhere on the disk."""

import subprocess
import sys
from pathlib import Path

import pytest

from harness import paths
from harness.build import Build

LIMIT = 900


def test_a_definition_by_its_path_is_shown_and_judged(
    build: Build, tmp_path: Path, pytestconfig: pytest.Config
) -> None:
    if build.definition.name != "reference" or pytestconfig.getoption("--series"):
        pytest.skip("the definition that is copied is `reference`")
    text = (paths.KERNELS / "reference.toml").read_text()
    assert 'series = "reference"' in text
    # The same inputs, so nothing is built for it.
    copy = tmp_path / "mine.toml"
    copy.write_text(text.replace('series = "reference"', f'series = "{paths.KERNELS / "reference"}"'))
    command = [Path(sys.executable).with_name("mkh"), "demo", "--kernel", copy]
    done = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "every claim held: 13 passed, 0 failed" in done.stderr
    assert "user space is up on alpha" in done.stderr
