"""Every door of the project against what a model, a server, a client, an endpoint or a program may send."""

from __future__ import annotations

import asyncio

import pytest

from tests.hostile.doors import DOORS
from tests.hostile.inputs import Inputs


@pytest.mark.timeout(3600)
@pytest.mark.parametrize("door", DOORS)
def test_a_door_holds(door: str):
    outcome = asyncio.run(DOORS[door](Inputs(seed=2), 300))
    assert outcome.attempts
    assert outcome.broke == []
