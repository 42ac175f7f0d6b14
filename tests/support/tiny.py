"""The demo's tiny model and environment, for the trainer's tests."""

from __future__ import annotations

import sys

from tests.support.paths import ROOT

sys.path.insert(0, str(ROOT / "examples"))

import buttons
from tiny_model import make_model, make_tokenizer, warm_up

import tests.support.ors_servers  # noqa: F401  (silences the SDK's log before it is imported)
from ors_gym_server import as_openreward

__all__ = ["Buttons", "make_model", "make_tokenizer", "warm_up"]

Buttons = as_openreward(buttons.Buttons)
