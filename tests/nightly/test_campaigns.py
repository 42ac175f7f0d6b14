"""Groups while what they stand on fails, many times: ``python -m tests.faults`` prints the same."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.support.paths import ROOT


@pytest.mark.timeout(3600)
@pytest.mark.parametrize(("door", "groups"), [("rollouts", 48), ("ray", 40)])
def test_nothing_comes_twice_is_wrong_or_is_left_behind(door: str, groups: int):
    command = [sys.executable, "-m", "tests.faults", door, "--groups", str(groups)]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    print(ended.stdout, ended.stderr)
    assert ended.returncode == 0
