"""The examples in docstrings do what they say."""

from __future__ import annotations

import doctest
import importlib

import pytest

from tests.support.paths import ROOT

CORE = ROOT / "ors_gym"
MODULES = sorted(f"ors_gym.{path.stem}" for path in CORE.glob("*.py") if ">>> " in path.read_text())
"""Those with examples; some need a server and are skipped."""


@pytest.mark.parametrize("module", MODULES)
def test_the_examples_of_a_module_run(module: str):
    assert not doctest.testmod(importlib.import_module(module)).failed
