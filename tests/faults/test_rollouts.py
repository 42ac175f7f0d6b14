"""Groups under infrastructure failures: each comes back once, whole or said to be broken, and no session is left."""

from __future__ import annotations

import pytest

from tests.faults.groups import HEAD, row
from tests.faults.rollout_campaign import WORLDS, play

GROUPS = 12


@pytest.mark.parametrize("name", WORLDS)
def test_every_group_comes_back_once_as_the_policy_says_and_no_session_is_left(name: str):
    world = WORLDS[name]
    tally = play(world, GROUPS, seed=1)
    print(HEAD, row(name, tally), sep="\n")

    assert tally.doubled == 0
    assert tally.wrong == []
    assert tally.sessions_left == 0
    assert tally.kept + tally.dropped == GROUPS + tally.refills
    if world.failures.incomplete == "keep":
        needed = world.failures.min_valid_members
        assert all(group.dropped == (group.num_valid < needed) for group in tally.groups)
    else:
        assert tally.kept == tally.complete
    if world.failures.incomplete == "refill":
        assert tally.refills > 0
    if name in ("nothing breaks", "the server is full"):
        assert tally.complete == GROUPS
        assert not tally.failures
    elif world.breaks:
        assert tally.failures
