"""A short run of ``python -m tests.hostile``, equal for equal seeds; ``make test-nightly`` runs all of it."""

from __future__ import annotations

import asyncio

import pytest

from tests.hostile.doors import DOORS
from tests.hostile.inputs import Inputs


@pytest.mark.parametrize("door", ["client", "endpoint", "records", "page"])
def test_a_door_holds_against_what_may_be_sent(door: str, monkeypatch: pytest.MonkeyPatch):
    for module in ("ors_gym.http.transport", "ors_gym.client.tool_call"):
        monkeypatch.setattr(f"{module}.MAX_ANSWER_BYTES", 2**20)  # endless answers end sooner
    outcome = asyncio.run(DOORS[door](Inputs(seed=1), 100))
    assert outcome.attempts >= 100
    assert outcome.broke == []
